"""`${NAME}` in the values of a configuration."""

import pytest

from xrouter.config.interpolate import interpolate
from xrouter.secret import Secret


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${A}", "one"),
        ("x${A}y${B}z", "xoneytwoz"),
        ("${A}${A}", "oneone"),
        ("${NONE:-default}", "default"),
        ("${NONE:-}", ""),
        ("${EMPTY:-default}", "default"),
        ("${EMPTY}", ""),
        ("${A:-default}", "one"),
        ("${NONE:-a:-b $ { c}", "a:-b $ { c"),
        ("$${A}", "${A}"),
        ("$${A} ${A}", "${A} one"),
        ("$$${A}", "$${A}"),
        ("pa$$word $A $", "pa$$word $A $"),
        ("${A}}", "one}"),
        ("${DOLLAR}", "${A}"),
    ],
)
def test_references_are_replaced_once(text, result):
    found = interpolate(text, {"A": "one", "B": "two", "EMPTY": "", "DOLLAR": "${A}"})
    assert found.text == result
    assert not found.faults


@pytest.mark.parametrize("text", ["${}", "${1A}", "${A-b}", "${A:b}", "${A B}", "${A", "${Ы}", "${A:-${B}}", "${A:?x}"])
def test_malformed_reference_is_a_fault(text):
    assert interpolate(text, {"A": "one", "B": "two"}).faults


@pytest.mark.parametrize("value", ["a\nb", "a\r", "\0", "\x1b[0m", "a\u2028b", "\udcff"])
def test_control_characters_from_the_environment_are_refused_without_being_shown(problems_of, sheet, value):
    assert problems_of(sheet("server", "server: {host: '${HOST}'}"), HOST=value) == [
        "1:17: the environment variable HOST holds a line break, a control character or no valid text"
    ]


def test_every_unset_variable_is_told_where_it_stands(problems_of, sheet):
    text = sheet(
        "upstreams",
        """
upstreams:
  up:
    provider: toy_parts:Toy
    base_url: https://${HOST}/${PATH_}
    api_key: "a ${KEY}"
    auth_url: >-
      https://auth.example/
      ${AUTH}
    scope: $${X
""",
    )
    unset = "the environment variable {0} is not set, and there is no default: ${{{0}:-default}}"
    assert problems_of(text) == [
        f"4:23: {unset.format('HOST')}",
        f"4:31: {unset.format('PATH_')}",
        "5:17: " + unset.format("KEY"),
        "8:7: " + unset.format("AUTH"),
        "9:12: expected one of 'ONE', 'TWO', found '${X'",
    ]


def test_reference_behind_an_escape_is_told_at_the_scalar(problems_of, sheet):
    text = sheet("server", 'server: {host: "\\x24{A}${B}"}')
    assert [line.partition(": ")[0] for line in problems_of(text)] == ["1:16", "1:24"]


def test_interpolated_scalars_take_the_wanted_type_in_quotes_or_not(filter_config):
    config = filter_config(
        """
whole: ${WHOLE}
number: "${NUMBER:-0.5}"
flag: '${FLAG:-true}'
price: ${PRICE}
size: ${N}MB
text: ${TEXT}
secret: ${TEXT}
choice: ${CHOICE:-b}
""",
        WHOLE="42",
        PRICE="0.65",
        N="20",
        TEXT="17",
    )
    assert (config.whole, config.number, config.flag, str(config.price)) == (42, 0.5, True, "0.65")
    assert (config.size, config.text, config.secret, config.choice) == (20_000_000, "17", Secret("17"), "b")


@pytest.mark.parametrize("value", ["{port: 1}", "[1]", "1\tport: 2", "a: b", "*x", "!!int 1", "# 1", "null"])
def test_variable_never_adds_structure(load_text, sheet, value):
    if "\t" in value:
        value = value.replace("\t", " ")
    text = sheet(
        "models", "models:\n  a/b:\n    name: ${NAME}\n    price: free\n    routes: [{upstream: up, model: m}]"
    )
    assert load_text(text, NAME=value).models["a/b"].name == value


def test_empty_variable_leaves_an_optional_field_at_its_default(filter_config):
    config = filter_config(
        """
text: ${E:-}
whole: "${E:-}"
secret: ${E:-}
price: ${E}
items: ${E}
table: "${E}"
breaker: ${E}
maybe: ${E}
either: ${E}
""",
        E="",
    )
    assert config == type(config)()


def test_empty_variable_in_a_required_field_is_a_problem_that_names_it(problems_of, sheet):
    filters = "filters:\n  - toy_parts:Reader\n  - toy_parts:Router\n  - toy_parts:Needy: {limit: '${L:-}', names: []}"
    expected = "4:30: 'limit' is empty: so the environment leaves it (L)"
    assert problems_of(sheet("filters", filters)) == [expected]


def test_no_message_repeats_what_the_environment_holds(problems_of, sheet):
    canary = "canary-7f3a"
    text = sheet(
        "server",
        """
server: {port: "${C}", drain_s: "${C}", host: "a ${C}", trusted_proxies: ["${C}"]}
store: ${C}
redis: ${C}
tiers: {free: {requests: ["${C}"], concurrency: "${C}"}}
""",
    )
    upstreams = """
upstreams:
  up: {provider: "toy_parts:Toy", base_url: "${C}", auth_url: "https://${C}@x", scope: "${C}", engine: "${C}"}
  un: {provider: "${C}"}
  uo: {provider: "toy_parts:Toy", api_key: "${C}", token: "${C}"}
  up2: {provider: "toy_parts:Toy", api_key: [canary-7f3a], proxy: "${C}", key_file: "${C}", loud: "${C}"}
  up3: {provider: "toy_parts:Toy", api_key: "x", token: canary-7f3a}
models:
  a/b:
    price: {input: "${C}", per: "${C}"}
    kind: ${C}
    aliases: ["${C}", "${C}"]
    routes: [{upstream: "${C}", model: m, weight: "${C}"}]
filters: ["${C}", {"toy_parts:Failing": {text: "${C}"}}]
"""
    text = text.replace(sheet.sections["upstreams"], upstreams)
    text = text.replace(sheet.sections["models"] + "\n", "").replace(sheet.sections["filters"] + "\n", "")
    found = problems_of(text, C=canary)
    assert len(found) > 20
    assert not [line for line in found if canary in line]
