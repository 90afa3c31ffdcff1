"""Events as OpenAI's clients read them: chat, completions, embeddings, whole and streamed."""

import base64
import struct
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from xrouter.context import Cost
from xrouter.errors import UpstreamTimeout
from xrouter.events import Answer, Embedding, Event, Finish, ReasoningText, Text, ToolCallPart, Usage, Verbatim
from xrouter.surfaces.base import AnswerHead, credits, encode, usage_object
from xrouter.surfaces.openai import read_call, renderer
from xrouter.wire import decode_json, encode_json

CHAT: dict[str, Any] = {"model": "a/b", "messages": [{"role": "user", "content": "x"}]}
CALLS = [ToolCallPart(0, "c1", "f", '{"a":'), ToolCallPart(0, None, None, "1}"), ToolCallPart(1, "c2", "g", "{}")]
DONE = "data: [DONE]"


def rendered(body: dict[str, Any], events: Sequence[Event], *, kind: str = "chat", usage: Usage | None = None,
             cost: Cost | None = None, openrouter: bool = False) -> bytes:  # fmt: skip
    this = renderer(read_call(kind, encode_json(body)), AnswerHead("gen-1", "a/b", 7, "up", openrouter))
    return b"".join(this.feed([event]) for event in events) + this.end(usage, cost)


def chunks(data: bytes) -> list[dict[str, Any]]:
    lines = data.decode().removesuffix("\n\n").split("\n\n")
    assert lines.pop() == DONE
    return [decode_json(line.removeprefix("data: ")) for line in lines]


def test_a_stream_begins_with_the_role_and_ends_with_the_reason() -> None:
    found = chunks(rendered({**CHAT, "stream": True}, [Text("a"), Text("b"), Finish("stop", "native_stop")]))
    assert [each["choices"][0]["delta"] for each in found] == [
        {"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}, {},
    ]  # fmt: skip
    assert [each["choices"][0]["finish_reason"] for each in found] == [None, None, None, "stop"]
    assert found[-1]["choices"][0]["native_finish_reason"] == "native_stop"
    assert {(each["id"], each["object"], each["created"], each["model"], each["provider"]) for each in found} == {
        ("gen-1", "chat.completion.chunk", 7, "a/b", "up")
    }


def test_tool_calls_whole_and_streamed_say_the_same() -> None:
    events = [*CALLS, Finish("tool_calls", "function_call")]
    message = decode_json(rendered(CHAT, events))["choices"][0]["message"]
    assert message["content"] is None
    assert [(call["id"], call["type"], call["function"]) for call in message["tool_calls"]] == [
        ("c1", "function", {"name": "f", "arguments": '{"a":1}'}),
        ("c2", "function", {"name": "g", "arguments": "{}"}),
    ]
    gathered: dict[int, dict[str, str]] = {}
    for each in chunks(rendered({**CHAT, "stream": True}, events)):
        for part in each["choices"][0]["delta"].get("tool_calls", ()):
            call = gathered.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
            call["id"] += part.get("id", "")
            call["name"] += part["function"].get("name", "")
            call["arguments"] += part["function"]["arguments"]
    assert list(gathered.values()) == [
        {"id": "c1", "name": "f", "arguments": '{"a":1}'}, {"id": "c2", "name": "g", "arguments": "{}"},
    ]  # fmt: skip


def test_the_older_form_of_functions() -> None:
    body = {**CHAT, "functions": [{"name": "f"}]}
    events = [CALLS[0], CALLS[1], Finish("tool_calls", "x")]
    choice = decode_json(rendered(body, events))["choices"][0]
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "function_call"
    found = chunks(rendered({**body, "stream": True}, events))
    parts = [each["choices"][0]["delta"].get("function_call") for each in found]
    assert parts[1:3] == [{"name": "f", "arguments": '{"a":'}, {"arguments": "1}"}]
    assert found[-1]["choices"][0]["finish_reason"] == "function_call"


@pytest.mark.parametrize("exclude", [False, True])
def test_reasoning_is_shown_unless_it_is_not_wanted(exclude: bool) -> None:
    body = {**CHAT, "reasoning": {"exclude": exclude}}
    events = [ReasoningText("hm"), Text("yes"), Finish("stop", "")]
    message = decode_json(rendered(body, events))["choices"][0]["message"]
    assert message["content"] == "yes"
    assert message.get("reasoning") == message.get("reasoning_content") == (None if exclude else "hm")
    told = rendered({**body, "stream": True}, events)
    assert (b"hm" in told) != exclude


def test_an_empty_answer_is_an_answer() -> None:
    body = decode_json(rendered(CHAT, [Finish("content_filter", "blacklist")], usage=Usage(3, 0)))
    assert body["choices"][0]["message"] == {"role": "assistant", "content": ""}
    assert body["choices"][0]["finish_reason"] == "content_filter"
    assert body["system_fingerprint"] is None
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}


@pytest.mark.parametrize(
    ("fields", "openrouter", "told"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"stream_options": {"include_usage": True}}, False, True),
        ({"stream_options": {"include_usage": False}}, True, True),  # OpenRouter ignores it
        ({"stream_options": {"include_usage": False}}, False, False),
        ({"usage": {"include": True}}, False, True),
        ({"usage": {"include": False}}, False, False),
    ],
)
@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_usage_in_a_stream(kind: str, fields: dict[str, Any], openrouter: bool, told: bool) -> None:
    base = CHAT if kind == "chat" else {"model": "a/b", "prompt": "x"}
    body = {**base, "stream": True, **fields}
    found = chunks(rendered(body, [Text("a"), Finish("stop", "")], kind=kind, usage=Usage(1, 2), openrouter=openrouter))
    assert ("usage" in found[-1]) == told
    if told:
        assert found[-1]["choices"] == []
        assert found[-1]["usage"]["total_tokens"] == 3
    assert not any("usage" in each for each in found[:-1])


def test_details_that_are_unknown_are_absent_never_null() -> None:
    assert usage_object(Usage(5, 2), None) == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    full = usage_object(Usage(5, 2, cached_tokens=0, reasoning_tokens=1), Cost(1_500_000_000, 500_000_001))
    assert full["prompt_tokens_details"] == {"cached_tokens": 0}
    assert full["completion_tokens_details"] == {"reasoning_tokens": 1}
    assert encode(full).endswith(
        b'"cost":1.5,"is_byok":false,"cost_details":{"upstream_inference_prompt_cost":0.999999999,'
        b'"upstream_inference_completions_cost":0.500000001}}'
    )


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0"),
        (1, "1E-9"),
        (1_500_000_000, "1.5"),
        (10**9, "1"),
        (123_456_789, "0.123456789"),
        (10**18 + 1, "1000000000.000000001"),
    ],
)
def test_amounts_leave_exactly(nano: int, text: str) -> None:
    assert encode({"cost": credits(nano)}) == f'{{"cost":{text}}}'.encode()
    assert Decimal(text) * 10**9 == nano


def test_a_break_after_the_first_byte_is_one_event() -> None:
    for kind, body in (("chat", CHAT), ("completions", {"model": "a/b", "prompt": "x"})):
        this = renderer(read_call(kind, encode_json({**body, "stream": True})), AnswerHead("gen-1", "a/b", 7, "up"))
        this.feed([Text("a")])
        data = this.failed(UpstreamTimeout())
        assert data.count(b"\n\n") == 1
        event = decode_json(data.removeprefix(b"data: "))
        assert event["error"]["code"] == 504
        assert event["error"]["metadata"]["error_type"] == "timeout"
        assert event["choices"][0]["finish_reason"] == "error"


@pytest.mark.parametrize(("kind", "object_"), [("chat", "chat.completion.chunk"), ("completions", "text_completion")])
def test_all_chunks_of_another_servers_stream_have_its_time(kind: str, object_: str) -> None:
    """OpenAI: "Each chunk has the same timestamp". Fails where the gateway's own chunks tell the gateway's time."""
    body = {"model": "a/b", "prompt": "x"} if kind == "completions" else CHAT
    body = {**body, "stream": True}
    choice = {"index": 0, "text": "a", "delta": {"content": "a"}, "finish_reason": None}
    data = encode_json({"id": "up-1", "object": object_, "created": 5, "model": "m", "choices": [choice]})
    found = chunks(rendered(body, [Verbatim(data)], kind=kind, usage=Usage(1, 1), openrouter=True))
    assert [(each["id"], each["object"], each["created"]) for each in found] == [("gen-1", object_, 5)] * 2
    this = renderer(read_call(kind, encode_json(body)), AnswerHead("gen-1", "a/b", 7, "up"))
    this.feed([Verbatim(data)])
    assert decode_json(this.failed(UpstreamTimeout()).removeprefix(b"data: "))["created"] == 5


def test_a_whole_answer_of_another_server_keeps_what_it_says() -> None:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "x", "refusal": None},
        "logprobs": {"content": []},
    }
    body = {
        "id": "theirs",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [choice],
        "usage": {"x": 1},
    }
    found = decode_json(rendered(CHAT, [Answer(body)], usage=Usage(1, 1)))
    assert (found["id"], found["model"], found["created"], found["provider"]) == ("gen-1", "a/b", 5, "up")
    assert found["choices"] == [{**choice, "finish_reason": None}]
    assert found["usage"] == {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def test_completions() -> None:
    body = {"model": "a/b", "prompt": "x"}
    events = [Text("a"), Text("b"), Finish("length", "x")]
    whole = decode_json(rendered(body, events, kind="completions"))
    assert whole["object"] == "text_completion"
    assert whole["choices"] == [{"text": "ab", "index": 0, "logprobs": None, "finish_reason": "length"}]
    found = chunks(rendered({**body, "stream": True}, events, kind="completions"))
    assert [each["choices"][0]["text"] for each in found] == ["a", "b", ""]
    assert found[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("packed", [False, True])
def test_embeddings(packed: bool) -> None:
    body = {"model": "a/b", "input": ["x", "y"], **({"encoding_format": "base64"} if packed else {})}
    events = [Embedding(1, [0.25, -1.5]), Embedding(0, [1.0, 0.0])]
    found = decode_json(rendered(body, events, kind="embeddings", usage=Usage(4, 0)))
    assert found["object"] == "list"
    assert found["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    vectors = [item["embedding"] for item in found["data"]]
    if packed:
        vectors = [list(struct.unpack("<2f", base64.b64decode(vector))) for vector in vectors]
    assert vectors == [[1.0, 0.0], [0.25, -1.5]]


@pytest.mark.parametrize("exclude", [True, False])
def test_reasoning_of_an_upstream_that_speaks_openai_is_shown_unless_it_is_not_wanted(exclude: bool) -> None:
    said = {"content": "Lima", "reasoning": "Peru?", "reasoning_content": "Peru?"}
    data = encode_json({"id": "u", "model": "m", "choices": [{"index": 0, "delta": said, "finish_reason": None}]})
    asked = {"model": "a/b", "messages": [{"role": "user", "content": "?"}], "reasoning": {"exclude": exclude}}
    (chunk, *_) = chunks(rendered({**asked, "stream": True}, [Verbatim(data)]))
    whole = decode_json(rendered(asked, [Answer({"choices": [{"index": 0, "message": dict(said)}]})]))
    for answer in (chunk["choices"][0]["delta"], whole["choices"][0]["message"]):
        assert answer["content"] == "Lima"
        assert ("reasoning" in answer, "reasoning_content" in answer) == (not exclude, not exclude)
