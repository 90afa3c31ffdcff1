"""Chunks of another server made ours as bytes: the same as decoding, changing and encoding them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter.events import Verbatim
from xrouter.surfaces.base import AnswerHead
from xrouter.surfaces.splice import Splicer
from xrouter.wire import decode_json

HEAD = AnswerHead("gen-1", 'our/"model"', 1, "local")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ['"id":"up-1"', '","id":"up-1","x":"', "\\", '\\"model":"m"', '{"model": "m"}', "\u2028"]
)


def chunk(content: str, **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": {"content": content}, "finish_reason": None}]
    return {"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}


def ours(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "id": HEAD.id, "model": HEAD.model, "provider": HEAD.provider}


@given(st.lists(TEXT, min_size=1, max_size=6), st.booleans(), st.sampled_from([None, (",", ":")]))
def test_nothing_but_our_names_changes(texts: list[str], ascii_only: bool, separators: Any) -> None:
    splicer = Splicer(HEAD)
    for text in texts:
        body = chunk(text)
        data = json.dumps(body, ensure_ascii=ascii_only, separators=separators).encode()
        assert decode_json(splicer.chunk(Verbatim(data))) == ours(body)


@pytest.mark.parametrize(
    "odd",
    [
        chunk("x", provider="theirs"),
        chunk("x", id="another"),
        chunk("x", model="another"),
        {key: value for key, value in chunk("x").items() if key != "id"},
        {key: value for key, value in chunk("x").items() if key != "model"},
        {"choices": []},
        chunk("x", id='a"b\\'),
        chunk("x", extra={"id": "up-1", "model": "m"}),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_an_odd_chunk_is_rewritten(odd: dict[str, Any], place: int) -> None:
    """Whether it is the first, from which the splicer learns, or a later one."""
    bodies = [chunk("a"), chunk("b"), chunk("c")]
    bodies[place] = odd
    splicer = Splicer(HEAD)
    for body in bodies:
        assert decode_json(splicer.chunk(Verbatim(json.dumps(body).encode()))) == ours(body)


def test_a_fingerprint_of_null_is_left_out() -> None:
    """OpenRouter's SDK takes a chunk without it, or with a text; not with null."""
    splicer = Splicer(HEAD)
    for fingerprint in (None, None, "fp_1"):
        seen = decode_json(splicer.chunk(Verbatim(json.dumps(chunk("x", system_fingerprint=fingerprint)).encode())))
        assert seen.get("system_fingerprint", "absent") == (fingerprint or "absent")
