"""The compatible surface. Numbers are those of the sheet's section 16."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yandexgpt_kit import (
    FOLDER,
    calls,
    chunk,
    dumps,
    finish,
    header,
    normal,
    read,
    said,
    sent,
    sent_body,
    settings,
    sse,
    translator,
)

from xrouter.errors import BadRequest, ContextLengthExceeded, UpstreamError, UpstreamProtocolError, XRouterError
from xrouter.events import Finish, ReasoningText, Text, ToolCallPart, Usage
from xrouter.providers.base import Translator

QWEN = "qwen3-235b-a22b-fp8"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
USAGE = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}
ANSWER = "Столица Перу — Лима 🦙."


def qwen(**body: Any) -> Translator:
    return translator(QWEN, stream=True, **body)


def whole(message: dict[str, Any], reason: str | None = "stop", **fields: Any) -> bytes:
    return dumps({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": reason}], **fields})


def test_yandexgpt_25_unsupported_fields_are_not_sent() -> None:
    fields = {
        "stream": True, "stream_options": {"include_usage": True}, "stop": ["x"], "seed": 1, "top_p": 0.5, "top_k": 2,
        "user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "models": ["a"], "route": "fallback",
        "provider": {"order": ["x"]}, "session_id": "s", "transforms": [], "plugins": [], "usage": {"include": True},
        "frequency_penalty": 1, "presence_penalty": 1, "logit_bias": {"1": 1}, "n": 1, "logprobs": False,
        "prediction": {}, "modalities": ["text"], "min_p": 0.1, "prompt_cache_key": "k", "reasoning": {"exclude": True},
        "response_format": {"type": "text"}, "parallel_tool_calls": True, "unknown": 1,
    }  # fmt: skip
    assert set(sent_body(QWEN, **fields)) == {"model", "messages", "stream"}


def test_yandexgpt_25_supported_fields_are_sent() -> None:
    function = {"name": "time", "parameters": {"type": "object"}}
    schema = {"name": "x", "schema": {"type": "object"}, "strict": True}
    body = sent_body(
        QWEN,
        temperature=1.7,
        max_completion_tokens=7,
        tools=[{"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "time"}},
        parallel_tool_calls=False,
        response_format={"type": "json_schema", "json_schema": schema},
        reasoning_effort="low",
        facts=settings(reasoning=True),
    )
    assert body == {
        "model": f"gpt://{FOLDER}/{QWEN}/latest",
        "messages": [{"role": "user", "content": "Столица Перу?"}],
        "temperature": 1.7,
        "max_tokens": 7,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "time"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": schema},
        "reasoning_effort": "low",
    }


def test_yandexgpt_25_what_depends_on_the_model() -> None:
    assert sent_body("yandexgpt", "openai", temperature=1.7)["temperature"] == 1.0
    assert sent_body("aliceai-llm", temperature=2)["temperature"] == 1.0
    assert "reasoning_effort" not in sent_body(QWEN, reasoning_effort="low")
    assert list(translator(QWEN, reasoning_effort="low").downgrades) == ["reasoning_effort"]
    unnamed = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    assert sent_body(QWEN, response_format=unnamed)["response_format"]["json_schema"]["name"]
    assert sent_body(QWEN, response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}


def test_the_url_and_the_headers() -> None:
    request = sent(qwen())
    assert (request.method, request.url) == ("POST", "https://yandex.test/v1/chat/completions")
    assert header(request, b"openai-project") == FOLDER.encode()
    assert header(request, b"x-folder-id") is None


def test_yandexgpt_26_yandexs_stream_becomes_a_valid_one() -> None:
    body = sse(
        chunk({"role": "assistant", "content": ""}, model="latest"),
        chunk({"content": "Ли"}),
        chunk({}),
        chunk({"content": "ма"}),
        chunk({"content": None}, "STOP"),
        {"choices": [], "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}},
    )
    compatible = qwen()
    assert read(compatible, body) == [Text("Ли"), Text("ма"), Finish("stop", "STOP")]
    assert compatible.usage == Usage(20, 7, cached_tokens=4)
    assert compatible.complete


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (None, None, None),
        (USAGE, None, Usage(20, 7)),
        ({**USAGE, "completion_tokens": 1}, USAGE, Usage(20, 7)),
        (None, {**USAGE, "completion_tokens_details": {"reasoning_tokens": 3}}, Usage(20, 7, reasoning_tokens=3)),
        (None, {"prompt_tokens": -1, "completion_tokens": 7}, None),
        (None, {"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0)),
        (None, {}, None),
    ],
)
def test_yandexgpt_26_usage_may_stand_anywhere_or_nowhere(first: Any, last: Any, expected: Usage | None) -> None:
    compatible = qwen()
    read(compatible, sse(chunk({"content": "Лима"}, usage=first), chunk({}, "stop", usage=last)))
    assert compatible.usage == expected


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({"prompt_tokens": "20", "completion_tokens": "7"}, Usage(20, 7)),
        ({"prompt_tokens": 20.0, "completion_tokens": 7.0}, Usage(20, 7)),
        ({"prompt_tokens": "x", "completion_tokens": 7}, None),
        ({"prompt_tokens": 20, "completion_tokens": 7, "prompt_tokens_details": 5}, None),
        ("none", None),
    ],
)
def test_an_answer_is_one_whatever_its_usage_is(reported: Any, expected: Usage | None) -> None:
    """F07. Fails where the usage is decoded with the answer: 502, and three tries."""
    for streamed in (False, True):
        compatible = qwen() if streamed else translator(QWEN)
        data = sse(chunk({"content": "Лима"}), chunk({}, "stop", usage=reported))
        events = read(compatible, data if streamed else whole({"content": "Лима"}, usage=reported))
        assert Text("Лима") in events
        assert compatible.usage == expected


def test_yandexgpt_34_an_unsaid_count_of_cached_tokens_is_unknown_and_a_said_zero_is_zero() -> None:
    for details, expected in (({}, None), ({"cached_tokens": None}, None), ({"cached_tokens": 0}, 0)):
        compatible = translator(QWEN)
        read(compatible, whole({"content": "Лима"}, usage={**USAGE, "prompt_tokens_details": details}))
        assert compatible.usage == Usage(20, 7, cached_tokens=expected)


@pytest.mark.parametrize("stop", [None, ["Столиц"]])
def test_yandexgpt_27_a_replacement_after_a_part_is_not_appended(stop: list[str] | None) -> None:
    body = sse(chunk({"content": "Лима — Столи"}), chunk({"content": "Не могу."}, "content_filter"))
    events = read(qwen(stop=stop), body)
    assert said(events) == ("Лима — " if stop else "Лима — Столи")
    assert finish(events) == Finish("content_filter", "content_filter")


def test_yandexgpt_27_a_replacement_before_any_text_is_the_answer() -> None:
    body = sse(chunk({"role": "assistant"}), chunk({"content": "Не могу."}, "CONTENT_FILTER"))
    assert read(qwen(), body) == [Text("Не могу."), Finish("content_filter", "CONTENT_FILTER")]


def test_yandexgpt_28_the_models_echo_is_for_the_log_alone() -> None:
    for echo, kept in (("latest", "latest"), (f"gpt://{FOLDER}/{QWEN}/latest", f"{QWEN}/latest")):
        compatible = qwen()
        events = read(compatible, sse(chunk({"content": "Лима"}, "stop", model=echo)))
        assert compatible.upstream_model == kept
        assert echo not in repr(events)


def test_yandexgpt_29_reasoning_is_passed_on_and_may_take_the_whole_budget() -> None:
    body = sse(
        chunk({"reasoning_content": "Ду"}), chunk({"reasoning_content": "маю", "content": ""}), chunk({}, "length")
    )
    assert normal(read(qwen(), body)) == [ReasoningText("Думаю"), Finish("length", "length")]
    message = {"content": "", "reasoning_content": "Думаю"}
    assert read(translator(QWEN), whole(message, "length")) == [ReasoningText("Думаю"), Finish("length", "length")]


@pytest.mark.parametrize("model", ["qwen3.6-35b-a3b", "gemma-3-27b-it"])
def test_yandexgpt_30_an_image_passes_as_a_data_url_to_a_model_that_sees(model: str) -> None:
    content = [{"type": "text", "text": "Что это?"}, IMAGE, {"type": "text", "text": "Кратко."}]
    body = sent_body(model, facts=settings(inputs=("text", "image")), messages=[{"role": "user", "content": content}])
    sent_content = body["messages"][0]["content"]
    assert sent_content == content


def test_yandexgpt_30_an_image_by_address_is_refused() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    with pytest.raises(BadRequest, match="data URL"):
        sent_body(
            "gemma-3-27b-it",
            facts=settings(inputs=("text", "image")),
            messages=[{"role": "user", "content": [{"type": "text", "text": "?"}, image]}],
        )


def test_yandexgpt_31_messages_are_passed_in_order_without_the_empty_ones() -> None:
    listed: list[dict[str, Any]] = [
        {"role": "system", "content": "А"},
        {"role": "user", "content": [{"type": "text", "text": "раз"}, {"type": "text", "text": "два"}]},
        {"role": "developer", "content": "Б"},
        {"role": "assistant", "content": ""},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "time", "arguments": "{}"}}],
        },
        {"role": "assistant", "content": "жду"},
        {"role": "tool", "tool_call_id": "a", "content": "12"},
        {"role": "user", "content": "три"},
        {"role": "user", "content": "четыре"},
    ]
    call = {"id": "a", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    assert sent_body(QWEN, messages=listed)["messages"] == [
        {"role": "system", "content": "А"},
        {"role": "user", "content": "раз\nдва"},
        {"role": "system", "content": "Б"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "12", "tool_call_id": "a"},
        {"role": "user", "content": "три"},
        {"role": "user", "content": "четыре"},
    ]
    assert sent_body("gpt-oss-20b", messages=listed)["messages"][2]["role"] == "developer"


def test_tool_calls_of_a_stream_are_passed_on_by_index() -> None:
    def part(index: int, arguments: str, **first: Any) -> dict[str, Any]:
        function = {"arguments": arguments, **{key: value for key, value in first.items() if key == "name"}}
        return {"index": index, "function": function, **({"id": first["id"]} if "id" in first else {})}

    body = sse(
        chunk({"tool_calls": [part(0, "", id="a", name="time")]}),
        chunk({"tool_calls": [part(0, '{"x":')]}),
        chunk({"tool_calls": [part(0, "1}"), part(1, "{}", name="weather")]}),
        chunk({}, "stop"),
    )
    events = read(qwen(), body)
    made_up = calls(events)[-1].id
    assert events == [
        ToolCallPart(0, "a", "time", ""),
        ToolCallPart(0, None, None, '{"x":'),
        ToolCallPart(0, None, None, "1}"),
        ToolCallPart(1, made_up, "weather", "{}"),
        Finish("tool_calls", "stop"),
    ]
    assert made_up
    assert made_up.startswith("call_")


def test_tool_calls_of_a_whole_answer() -> None:
    listed = [
        {"id": "a", "type": "function", "function": {"name": "time", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "time", "arguments": {"x": 2}}},
    ]
    events = read(translator(QWEN), whole({"content": None, "tool_calls": listed}, "TOOL_CALLS"))
    assert calls(events) == [ToolCallPart(0, "a", "time", '{"x": 1}'), ToolCallPart(1, "b", "time", '{"x":2}')]
    assert finish(events).reason == "tool_calls"
    older = {"content": None, "function_call": {"name": "time", "arguments": "{}"}}
    events = read(translator(QWEN), whole(older, "function_call"))
    assert [part.name for part in calls(events)] == ["time"]
    assert finish(events).reason == "tool_calls"


BODY = sse(
    chunk({"role": "assistant", "content": ""}),
    *(chunk({"content": letter}) for letter in ANSWER),
    chunk({}, "stop"),
    {"choices": [], "usage": USAGE},
)


def test_a_stream_cut_at_every_byte_gives_the_same_events() -> None:
    expected = read(qwen(), BODY)
    assert said(expected) == ANSWER
    for cut in range(0, len(BODY), 3):
        assert read(qwen(), BODY, [cut]) == expected
    assert read(qwen(), BODY, range(len(BODY))) == expected


@given(
    st.lists(st.integers(0, len(BODY))), st.lists(st.text("аиЛП 🦙", min_size=1, max_size=3), min_size=1, max_size=2)
)
def test_a_stream_cut_anywhere_is_stopped_at_the_same_place(cuts: list[int], stop: list[str]) -> None:
    compatible = qwen(stop=stop)
    events = read(compatible, BODY, cuts)
    ends = [(ANSWER.index(sequence) + len(sequence), ANSWER.index(sequence)) for sequence in stop if sequence in ANSWER]
    assert said(events) == (ANSWER[: min(ends)[1]] if ends else ANSWER)
    assert finish(events).reason == "stop"
    assert compatible.usage == Usage(20, 7)


@pytest.mark.parametrize(
    "body", [sse(chunk({"content": "Ли"}), done=False), b"", sse(), sse(chunk({"role": "assistant"}))]
)
def test_a_stream_without_its_end_is_an_error(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        read(qwen(), body)


def test_a_stream_without_done_or_without_a_reason_has_ended_all_the_same() -> None:
    assert finish(read(qwen(), sse(chunk({"content": "Ли"}, "stop"), done=False))).reason == "stop"
    assert finish(read(qwen(), sse(chunk({"content": "Ли"})))) == Finish("stop", "")


@pytest.mark.parametrize(
    "error",
    [
        {"message": "overloaded", "code": 14},
        {"error": {"message": "overloaded", "code": 503}},
        {"grpcCode": 14, "httpCode": 503, "message": "overloaded"},
    ],
)
def test_an_error_frame_follows_what_came_before_it(error: dict[str, Any]) -> None:
    compatible = qwen()
    assert compatible.feed(sse(chunk({"content": "Ли"}), {"error": error}, done=False)) == [Text("Ли")]
    assert compatible.complete
    with pytest.raises(UpstreamError) as raised:
        compatible.finish()
    assert (raised.value.status, raised.value.retry) == (503, True)


@pytest.mark.parametrize("rest", [sse({"error": {"message": "x", "code": 14}}, done=False), b"data: garbage\n\n"])
def test_what_comes_after_the_finish_reason_harms_nothing(rest: bytes) -> None:
    compatible = qwen()
    body = sse(chunk({"content": "Лима"}, "stop", usage=USAGE), done=False) + rest
    assert read(compatible, body) == [Text("Лима"), Finish("stop", "stop")]
    assert compatible.complete


@pytest.mark.parametrize("index", [-1, 5000, "x"])
def test_a_tool_call_of_no_possible_index_is_a_protocol_error(index: Any) -> None:
    with pytest.raises(UpstreamProtocolError):
        read(qwen(), sse(chunk({"tool_calls": [{"index": index, "function": {"name": "f"}}]}), chunk({}, "stop")))


def test_an_error_frame_that_comes_first_is_raised_at_once() -> None:
    with pytest.raises(UpstreamError):
        qwen().feed(sse({"error": {"error": "overloaded"}}, done=False))


@pytest.mark.parametrize("stream", [False, True])
def test_yandexgpt_19_an_error_under_status_200_is_an_error(stream: bool) -> None:
    text = "number of input tokens must be no more than 32768, got 56832"
    body = dumps({"error": {"code": "model_call_error", "message": text}, "output": []})
    with pytest.raises(ContextLengthExceeded):
        read(translator(QWEN, stream=stream), body, [1, 30])


def test_a_whole_answer_to_a_call_for_a_stream_is_taken() -> None:
    assert said(read(qwen(), b"\n" + whole({"content": ANSWER}), [1, 2])) == ANSWER


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"choices":5}',
        b'{"choices":null}',
        b'{"choices":[{"message":{"content":"\xff"}}]}',
        b"",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_garbage_is_a_protocol_error(body: bytes, stream: bool) -> None:
    with pytest.raises(UpstreamProtocolError):
        read(translator(QWEN, stream=stream), b"data: " + body + b"\n\n" if stream else body)


def test_an_endless_answer_is_cut_off() -> None:
    for stream in (False, True):
        with pytest.raises(UpstreamProtocolError, match="too long"):
            translator(QWEN, stream=stream).feed(b"data: " + b" " * 9_000_000)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "message", "content", "finish_reason", "usage", "error", "tool_calls", "index"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
garbage = st.binary(max_size=40) | json_values.map(lambda value: b"data: " + json.dumps(value).encode() + b"\n")


@given(st.lists(garbage, max_size=6), st.booleans())
def test_whatever_comes_ends_in_events_or_in_one_of_our_errors(pieces: list[bytes], stream: bool) -> None:
    try:
        events = read(translator(QWEN, stream=stream), b"\n".join(pieces))
    except XRouterError:
        return
    assert finish(events)
