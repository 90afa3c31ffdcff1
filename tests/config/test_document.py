"""What the file itself may be: bytes, YAML, keys, aliases, variables."""

from pathlib import Path
from time import perf_counter

import pytest

from xrouter.config.document import MAX_BYTES, MAX_DEPTH, MAX_NODES
from xrouter.config.load import ConfigError, load


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1:1: the file is empty: it needs at least upstreams, models and filters"),
        ("# only this\n", "1:1: the file is empty: it needs at least upstreams, models and filters"),
        ("---\n...\n", "2:1: the file is empty: it needs at least upstreams, models and filters"),
        ("- a\n", "1:1: the file holds one mapping: server, upstreams, models, filters, …"),
        ("server:\n\tport: 1\n", "2:1: a tab cannot indent or begin a value in YAML; use spaces"),
        ("a: [1\nb: 2\n", "2:2: not valid YAML: while parsing a flow sequence, expected ',' or ']', but got ':'"),
        ("a: *b\n", "1:4: not valid YAML: found undefined alias 'b'"),
        ("a: 1\n---\nb: 2\n", "2:1: the file holds more than one YAML document"),
        ("a: !!python/object:os.system x\n", "1:4: not valid YAML: tags (!…) are not used here"),
        ("a: !!int 1\n", "1:4: not valid YAML: tags (!…) are not used here"),
        ("a: ! 1\n", "1:4: not valid YAML: tags (!…) are not used here"),
        ("a: &a [*a]\n", "1:8: not valid YAML: an alias stands inside its own anchor"),
        ("a: &a {b: *a}\n", "1:11: not valid YAML: an alias stands inside its own anchor"),
        ("server: {host: ${HOST}}\n", '1:17: inside { } and [ ] a variable needs quotes: "${NAME}"'),
        ("a: b\n c: \x07\n", "2:5: the character U+0007 may not stand in YAML"),
        (b"a: b\nc: d\xff\n", "2:5: the file is not UTF-8 text from here on"),
        (b"\xff\xfea\x00", "1:1: the file is not UTF-8 text from here on"),
        ("a: " + "[" * 60, f"1:{3 + MAX_DEPTH}: not valid YAML: nested more than {MAX_DEPTH} levels deep"),
        ("#" * (MAX_BYTES + 1), f"1:1: the file is larger than {MAX_BYTES // 1024} KiB"),
        ("%YAML 9.9\n---\na: b\n", "1:1: not valid YAML: found incompatible YAML document (version 1.* is required)"),
    ],
)
def test_file_that_is_no_configuration_is_one_problem(problems_of, text, problem):
    assert problems_of(text) == [problem]


def test_missing_file_and_folder_are_one_problem_each(tmp_path: Path):
    for path, reason in ((tmp_path / "none.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert str(caught.value) == f"{path}:1:1: cannot be read: {reason}"


def test_nul_in_the_path_is_a_problem():
    with pytest.raises(ConfigError, match="not a valid path"):
        load(Path("a\0b"), {})


def test_byte_order_mark_and_every_line_ending_keep_the_places(problems_of, sheet):
    text = sheet("server", "server:\n  prot: 1\n  host: >-\n    a\n    b${HOST}")
    expected = problems_of(text)
    assert expected[0].startswith("2:3: unknown key 'prot'")
    assert expected[1].startswith("5:6: the environment variable HOST is not set")
    for variant in (b"\xef\xbb\xbf" + text.encode(), text.replace("\n", "\r\n"), text.replace("\n", "\r")):
        assert problems_of(variant) == expected


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ("server:\n  port: 1\n  port: 2", "3:3: duplicate key 'port'; the first is at 2:3"),
        ('server: {port: 1, "port": 2}', "1:19: duplicate key 'port'; the first is at 1:10"),
        ("server:\n  8: 1", "2:3: a key is text; put a number, true, false or null in quotes"),
        ("server:\n  true: 1", "2:3: a key is text; put a number, true, false or null in quotes"),
        ("server:\n  ~: 1", "2:3: a key is text; put a number, true, false or null in quotes"),
        ("server:\n  ? [a]\n  : 1", "2:5: a key is text; put a number, true, false or null in quotes"),
        ("server:\n  ? {a: b}\n  : 1", "2:5: a key is text; put a number, true, false or null in quotes"),
        ("server:\n  ${KEY}: 1", "2:3: a key cannot come from the environment, only a value can"),
        ("server:\n  <<: 1", "2:3: << takes a mapping or a list of mappings, usually an alias: <<: *name"),
        ("server:\n  <<: [{}, 1]", "2:3: << takes a mapping or a list of mappings, usually an alias: <<: *name"),
    ],
)
def test_wrong_key_is_a_problem_at_the_key(problems_of, sheet, server, problem):
    assert problems_of(sheet("server", server), KEY="port") == [problem]


def test_quoted_keys_may_be_anything(load_text, sheet):
    text = sheet("tiers", 'tiers: {"2024": {concurrency: 3}, "null": {}}')
    assert set(load_text(text).tiers) == {"2024", "null"}


def test_anchors_aliases_and_merge_keys(load_text, sheet):
    text = sheet(
        "upstreams",
        """
upstreams:
  one: &one {provider: "toy_parts:Toy", wait_s: 3, timeouts: &slow {total_s: 900}}
  two: {<<: *one, wait_s: 4}
  three: {<<: [{loud: true}, {loud: false, wait_s: 5}], provider: "toy_parts:Toy", timeouts: *slow}
""",
    )
    upstreams = load_text(text).upstreams
    assert [upstream.wait_s for upstream in upstreams.values()] == [3, 4, 5]
    assert [upstream.timeouts.total_s for upstream in upstreams.values()] == [900, 900, 900]
    assert upstreams["three"].loud


def test_problem_in_an_aliased_part_is_told_once_where_it_is_written(problems_of, sheet):
    text = sheet("server", 'upstreams:\n  one: &a {provider: "toy_parts:Toy", wait_s: no}\n  two: *a')
    text = text.replace(sheet.sections["upstreams"] + "\n", "")
    assert problems_of(text) == ["2:47: expected a number, found text"]


def test_no_few_lines_of_aliases_stand_for_many_values(problems_of):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    started = perf_counter()
    found = problems_of("\n".join(lines))
    assert perf_counter() - started < 1
    assert found == [f"5:5: not valid YAML: more than {MAX_NODES} values, aliases written out"]


def test_no_chain_of_aliases_is_deeper_than_nesting_may_be(problems_of):
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 3000))]
    assert problems_of("\n".join(lines)) == [f"40:6: not valid YAML: nested more than {MAX_DEPTH} levels deep"]


def test_largest_file_is_read_in_bounded_time(problems_of):
    line = "k: {a: [1, 2, 3], 'b': \"c\"}\n"
    text = "".join(f"n{n}{line}" for n in range(6000))
    started = perf_counter()
    assert problems_of(text)
    assert perf_counter() - started < 20
