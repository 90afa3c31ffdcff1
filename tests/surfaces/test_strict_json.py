"""One reading of a request's body, whoever reads it after us (fault matrix F24, F25)."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xrouter.errors import BadRequest
from xrouter.surfaces.openai import read_call
from xrouter.surfaces.openrouter_key_bodies import CreateKey
from xrouter.surfaces.strict_body import read_struct
from xrouter.surfaces.strict_json import decode_object
from xrouter.wire import encode_json

MESSAGES = b'"messages": [{"role": "user", "content": "?"}]'
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXT, VALUES), st.booleans(), st.sampled_from([None, 1]))
def test_whatever_is_an_object_is_read(body: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    """With every serialiser's habits: escapes for all that is not ASCII or for none, spaces or none."""
    assert decode_object(json.dumps(body, ensure_ascii=ascii_only, indent=indent).encode()) == body
    assert decode_object(encode_json(body)) == body


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXT, VALUES, min_size=1), st.data())
def test_a_name_that_stands_twice_is_found(body: dict[str, Any], data: st.DataObject) -> None:
    """At any depth, also when one of the two is spelt with escapes, and when both have the same value."""
    name = data.draw(st.sampled_from(sorted(body)))
    spelt = "".join(f"\\u{ord(letter):04x}" if ord(letter) < 65536 else letter for letter in name)
    again = data.draw(st.sampled_from([json.dumps(name), json.dumps(name, ensure_ascii=False), f'"{spelt}"']))
    value = data.draw(st.sampled_from([json.dumps(body[name]), "1", '"x"', '{"a": "b"}']))
    twice = json.dumps(body)[:-1] + f", {again}: {value}}}"
    inside = f'{{"outer": [1, {{"deeper": {twice}}}]}}'
    for text in (twice, inside):
        with pytest.raises(BadRequest, match="twice"):
            decode_object(text.encode())


def test_quotation_marks_in_strings_confuse_nobody() -> None:
    for body in ({"a": 'say "x"'}, {"a": "\\"}, {"a": '\\"'}, {'"': '"'}, {"a": "\u2028\x00\x1f"}, {"": ""}):
        for text in (json.dumps(body), json.dumps(body, ensure_ascii=False)):
            assert decode_object(text.encode()) == body


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b'{"a":NaN}', b'{"a":1e999}', b'{"a":"\\ud800"}', b'{"a":"\xff"}', b"\xef\xbb\xbf{}"]
)
def test_what_is_none(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        decode_object(raw)


@pytest.mark.parametrize("many", [0, 2049])
def test_a_completion_has_some_prompts(many: int) -> None:
    with pytest.raises(BadRequest) as refused:
        read_call("completions", encode_json({"model": "a/b", "prompt": ["?"] * many}))
    assert refused.value.param == "prompt"


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b'{"model": "a/b"}', "messages"),
        (b'{"model": "a/b", "messages": [{"content": "?"}]}', "messages[0].role"),
        (b'{"model": "a/b", "n": 0, ' + MESSAGES + b"}", "n"),
        (b"{" + MESSAGES + b"}", "model"),
    ],
)
def test_the_field_at_fault_is_named(raw: bytes, param: str) -> None:
    """Fails for the first two where only the place that msgspec tells is taken: a missing field has none."""
    with pytest.raises(BadRequest) as refused:
        read_call("chat", raw)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("raw", "param"),
    [(b'{"name": "n", "limits": 1}', "limits"), (b'{"name": "n", "xrouter": {"tiers": "free"}}', "xrouter.tiers")],
)
def test_an_unknown_field_is_named(raw: bytes, param: str) -> None:
    """Fails where only the place is taken: that is the object's around it."""
    with pytest.raises(BadRequest) as refused:
        read_struct(raw, CreateKey)
    assert refused.value.param == param
