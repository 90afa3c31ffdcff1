"""Runs of text: many chunks at a time are what each of them alone is, however they are cut and whatever they hold."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
import test_openai_translator as openai
from gigachat_kit import EVENT_STREAM, sent, translator
from hypothesis import given
from hypothesis import strategies as st
from kit.runs import alone

from xrouter.context import Call
from xrouter.errors import UpstreamProtocolError
from xrouter.events import Event, Finish, Text, TextRun, Usage, Verbatim
from xrouter.providers.base import Translator
from xrouter.surfaces.base import AnswerHead
from xrouter.surfaces.openai import read_call, renderer
from xrouter.wire import encode_json

TEXTS = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(['"', "\\", '\\"', '","', "\n\n", "data: {", '"},"finish_reason":null}]}', "[DONE]", "🌍", ""]),
    ),
    min_size=1,
    max_size=12,
)
HEAD = AnswerHead("gen-1", "asked", 1, "up")


def giga(texts: Sequence[str], *, ascii_only: bool) -> bytes:
    chunks = [
        {"choices": [{"delta": {"content": text, "role": "assistant"}, "index": 0}], "created": 1, "model": "G:1"}
        for text in texts
    ]
    end = {"choices": [{"delta": {"content": ""}, "index": 0, "finish_reason": "stop"}], "created": 1, "model": "G:1"}
    lines = [json.dumps(each, ensure_ascii=ascii_only, separators=(",", ":")) for each in (*chunks, end)]
    return "".join(f"data: {line}\n\n" for line in lines).encode() + b"data: [DONE]\n\n"


def reading(**body: Any) -> Translator:
    made = translator(stream=True, **body)
    sent(made)
    made.started(200, EVENT_STREAM)
    return made


def fed(reader: Translator, data: bytes, size: int) -> list[Event]:
    events = [event for at in range(0, len(data), size) for event in reader.feed(data[at : at + size])]
    return [*events, *reader.finish()]


@given(TEXTS, st.booleans(), st.sampled_from([1, 7, 64, 200, 16_384]))
def test_gigachats_chunks_are_what_each_alone_is(texts: list[str], ascii_only: bool, size: int) -> None:
    events = fed(reading(), giga(texts, ascii_only=ascii_only), size)
    assert "".join(event.text for event in events) == "".join(texts)
    assert [event.content for event in alone(events) if isinstance(event, Text)] == [
        text for text in _whole_starts(texts) if text
    ]
    assert events[-1] == Finish("stop", "stop")


def _whole_starts(texts: list[str]) -> list[str]:
    """What may be the beginning of a `<think>` mark is held back: leading white space goes with the text after it."""
    held, rest = "", list(texts)
    while rest and not (held + rest[0]).strip():
        held += rest.pop(0)
    return [held + rest[0], *rest[1:]] if rest else [held]


def own(texts: Sequence[str], *, ascii_only: bool, field: str = "delta") -> bytes:
    chunks = [{"index": 0, "delta": {"content": text}, "finish_reason": None} for text in texts]
    chunks.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    lines = [
        json.dumps(
            {"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [chunk]},
            ensure_ascii=ascii_only,
            separators=(",", ":"),
        )
        for chunk in chunks
    ]
    return "".join(f"data: {line}\n\n" for line in lines).encode() + b"data: [DONE]\n\n"


@given(TEXTS, st.booleans(), st.sampled_from([1, 7, 64, 200, 16_384]))
def test_chunks_passed_on_are_what_each_alone_is(texts: list[str], ascii_only: bool, size: int) -> None:
    """The client gets one event a chunk, and in each the upstream's own with our names."""
    data = own(texts, ascii_only=ascii_only)
    reader = openai.translator(stream=True)
    reader.started(200, openai.HEADERS)
    events = fed(reader, data, size)
    together, one_by_one = renderer(call(), HEAD), renderer(call(), HEAD)
    written = b"".join(together.feed([event]) for event in events)
    assert written == b"".join(one_by_one.feed([event]) for event in alone(events))
    chunks = [json.loads(line.removeprefix("data: ")) for line in written.decode().split("\n\n") if line]
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == [*texts, None]
    assert {(chunk["id"], chunk["model"], chunk["provider"]) for chunk in chunks} == {("gen-1", "asked", "up")}
    assert events[-1] == Finish("stop", "stop")


def call(**body: Any) -> Call:
    return read_call(
        "chat", encode_json({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, **body})
    )


@given(TEXTS)
def test_what_the_client_gets_of_a_translated_run(texts: list[str]) -> None:
    events = fed(reading(), giga(texts, ascii_only=False), 16_384)
    together, one_by_one = renderer(call(), HEAD), renderer(call(), HEAD)
    assert _decoded(together.feed(events)) == _decoded(one_by_one.feed(alone(events)))


@given(TEXTS)
def test_what_the_client_of_the_older_kind_gets(texts: list[str]) -> None:
    older = read_call("completions", encode_json({"model": "m", "prompt": "x", "stream": True}))
    events = fed(reading(), giga(texts, ascii_only=False), 16_384)
    together, one_by_one = renderer(older, HEAD), renderer(older, HEAD)
    assert _decoded(together.feed(events)) == _decoded(one_by_one.feed(alone(events)))


def _decoded(data: bytes) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in data.decode().split("\n\n") if line]


def test_most_chunks_of_a_burst_are_in_runs() -> None:
    """Else all of the above would be about nothing."""
    texts = [f"слово {number} " for number in range(200)]
    for events in (
        fed(reading(), giga(texts, ascii_only=False), 16_384),
        fed(_own_reader(), own(texts, ascii_only=False), 16_384),
    ):
        assert sum(len(event.pieces()) for event in events if isinstance(event, TextRun)) >= 190
        assert len(events) < 20


def _own_reader() -> Translator:
    reader = openai.translator(stream=True)
    reader.started(200, openai.HEADERS)
    return reader


def test_reasoning_is_kept_from_who_does_not_want_it() -> None:
    """Also where a field that says nothing of it stands in every chunk."""
    data = own(["a", "b", "c"], ascii_only=True).replace(b'{"content"', b'{"reasoning_content":null,"content"')
    events = fed(_own_reader(), data, 16_384)
    assert any(isinstance(event, TextRun) for event in events)
    hiding = renderer(call(reasoning={"exclude": True}), HEAD)
    assert b"reasoning" not in hiding.feed(events)


def test_a_usage_between_texts_is_seen() -> None:
    first, rest = own(["a", "b", "c", "d"], ascii_only=True), b""
    parts = first.split(b"\n\n")
    counted = b'data: {"id":"up-1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    data = b"\n\n".join([*parts[:3], counted, *parts[3:]])
    reader = _own_reader()
    events = fed(reader, data + rest, 16_384)
    assert reader.usage == Usage(3, 4)
    assert "".join(event.text for event in events) == "abcd"


@pytest.mark.parametrize("wrong", [b"\xff", b"\x01", b"\\q", b"\\ud800\\u0041"[:6]])
def test_a_text_that_is_no_json_is_no_part_of_a_run(wrong: bytes) -> None:
    """GigaChat's are decoded and refused as ever; what came before is the client's."""
    data = giga(["aa", "bb", "cc", "@@", "dd"], ascii_only=True).replace(b"@@", wrong)
    reader = reading()
    events = list(reader.feed(data))
    assert "".join(event.text for event in events) == "aabbcc"
    assert reader.complete
    with pytest.raises(UpstreamProtocolError):
        reader.finish()


def test_chunks_that_are_never_alike_are_looked_at_a_few_times_only() -> None:
    reader = _own_reader()
    for number in range(50):
        data = own([f"text {number}"], ascii_only=True).split(b"\n\n")[0].replace(b"up-1", b"up-%d" % number)
        (event,) = reader.feed(data + b"\n\n")
        assert isinstance(event, Verbatim)
        parsed = event._parsed is not None
        assert parsed == (number < 4)
