"""What a client is told of GigaChat's answers; numbers are those of the sheet's section 15."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from gigachat_kit import (
    EVENT_STREAM,
    JSON,
    STATE_ID,
    answered,
    calls,
    chunk,
    dumps,
    finish,
    function_call,
    read,
    said,
    sent,
    stream,
    thought,
    tool,
    translator,
    usage,
    whole,
)
from hypothesis import given
from hypothesis import strategies as st
from kit.runs import alone

from xrouter.errors import UpstreamError, UpstreamProtocolError, XRouterError
from xrouter.events import Event, Finish, ReasoningText, Text, Usage

TALK = (
    chunk({"content": "Один, ", "role": "assistant"}),
    chunk({"content": "два, три 🌍."}),
    chunk({"content": ""}, "stop", usage=usage()),
)


def streamed(*chunks: dict[str, Any], **body: Any) -> list[Event]:
    return answered(stream(*chunks), stream=True, **body)


def asked(**body: Any) -> Any:
    """A translator whose exchange is over."""
    made = translator(**body)
    sent(made)
    return made


def test_a_stream() -> None:
    made = asked(stream=True)
    made.started(200, (*EVENT_STREAM, (b"x-request-id", STATE_ID.encode())))
    assert not made.complete
    events = alone(made.feed(stream(*TALK)))
    assert made.complete
    assert [*events, *made.finish()] == [Text("Один, "), Text("два, три 🌍."), Finish("stop", "stop")]
    assert made.usage == Usage(input_tokens=19, output_tokens=42, cached_tokens=2)
    assert made.upstream_model == "GigaChat:2.0.28.2"
    assert made.upstream_id == STATE_ID


def test_gigachat_07_neither_id_nor_object_is_relied_on() -> None:
    odd = [{**piece, "object": "chat.completions", "created": None, "unknown": {"x": [1]}} for piece in TALK]
    assert streamed(*odd) == streamed(*TALK)
    assert said(answered(whole({"content": "Привет!"}, object="chat.completions"))) == "Привет!"


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_gigachat_08_a_stream_cut_at_any_byte_says_the_same(newline: bytes) -> None:
    data = stream(*TALK, newline=newline)
    expected = answered(data, stream=True)
    for cut in range(len(data) + 1):
        assert answered(data, [cut], stream=True) == expected, cut
    assert answered(data, range(len(data)), stream=True) == expected


def test_gigachat_09_a_stream_without_end_is_an_error_not_a_stop() -> None:
    for data in (
        stream(*TALK[:2], done=False),
        stream(*TALK[:2], done=True),
        stream(*TALK, done=False)[:-60],
        b"",
        b"data: [DONE]\n\n",
    ):
        made = asked(stream=True)
        events = alone(made.feed(data))
        assert not any(isinstance(event, Finish) for event in events)
        with pytest.raises(UpstreamProtocolError):
            made.finish()
        assert made.usage is None


def test_the_end_mark_or_the_usage_may_be_missing() -> None:
    assert finish(answered(stream(*TALK, done=False), stream=True)) == Finish("stop", "stop")
    made = asked(stream=True)
    read(made, stream(*TALK[:2], chunk({}, "stop")))
    assert made.usage is None


def test_gigachat_10_usage_of_the_last_event_is_kept() -> None:
    """Whether a client sees it is the surface's affair; the translator always has it, before or after the finish."""
    made = asked(stream=True)
    read(made, stream(*TALK[:2], chunk({}, "stop"), {"choices": [], "usage": usage(1, 2, 3)}))
    assert made.usage == Usage(input_tokens=4, output_tokens=2, cached_tokens=3)


def test_gigachat_11_cached_tokens_are_added_to_the_prompts() -> None:
    made = asked()
    read(made, whole({"content": "x"}, usage={**usage(1, 4, 37), "total_tokens": 5}))
    assert made.usage == Usage(input_tokens=38, output_tokens=4, cached_tokens=37)


@pytest.mark.parametrize(
    "reported",
    [
        {},
        None,
        {"prompt_tokens": 5},
        {"prompt_tokens": -5, "completion_tokens": 1},
        {"prompt_tokens": 5, "completion_tokens": 2**40},
        {"prompt_tokens": 5, "completion_tokens": 1, "precached_prompt_tokens": -6},
        {"prompt_tokens": 5.5, "completion_tokens": 1},
        {"prompt_tokens": "many", "completion_tokens": 1},
        {"prompt_tokens": [5], "completion_tokens": {}},
        "unknown",
        [],
    ],
)
def test_usage_that_cannot_be_true_is_no_usage(reported: Any) -> None:
    """And the answer is one all the same (F07). Fails where the usage is decoded with the answer: 502, and three tries."""
    made = asked()
    assert said(read(made, whole({"content": "x"}, usage=reported))) == "x"
    assert made.usage is None


@pytest.mark.parametrize("form", [str, float])
def test_counts_in_another_form_are_counts(form: Any) -> None:
    made = asked()
    counts = {name: form(count) for name, count in usage(1, 4, 37).items()}
    assert said(read(made, whole({"content": "x"}, usage=counts))) == "x"
    assert made.usage == Usage(input_tokens=38, output_tokens=4, cached_tokens=37)


def test_usage_without_a_cached_count() -> None:
    made = asked()
    read(made, whole({"content": "x"}, usage={"prompt_tokens": 5, "completion_tokens": 1}))
    assert made.usage == Usage(input_tokens=5, output_tokens=1, cached_tokens=None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"city": "Омск", "days": 2}, '{"city":"Омск","days":2}'),
        ('{ "city": "Омск" }', '{ "city": "Омск" }'),
        (None, "{}"),
        ({}, "{}"),
    ],
)
def test_gigachat_12_arguments_are_json_text(arguments: Any, text: str) -> None:
    events = answered(whole(function_call(arguments), "function_call"), tools=[tool()])
    (call,) = calls(events)
    assert call.arguments == text
    assert call.name == "get_weather"
    assert finish(events) == Finish("tool_calls", "function_call")


def test_gigachat_12_escaped_letters_are_written_out() -> None:
    data = whole(function_call({"city": "?"}), "function_call").replace(b"?", rb"\u041e\u043c\u0441\u043a")
    (call,) = calls(answered(data, tools=[tool()]))
    assert call.arguments == '{"city":"Омск"}'


def test_gigachat_13_a_call_inside_a_stream() -> None:
    for chunks in (
        [chunk(function_call({"city": "Омск"}), "function_call", usage=usage())],
        [chunk(function_call({"city": "Омск"})), chunk({"content": ""}, "function_call", usage=usage())],
        [chunk({"content": "Смотрю"}), chunk(function_call({"city": "Омск"}), "stop")],
    ):
        events = streamed(*chunks, tools=[tool()])
        (call,) = calls(events)
        assert (call.index, call.name, call.arguments) == (0, "get_weather", '{"city":"Омск"}')
        assert call.id == "call_" + STATE_ID.replace("-", "")
        assert finish(events).reason == "tool_calls"


def test_a_calls_id_without_state_is_random() -> None:
    message = {**function_call({}), "functions_state_id": None}
    ids = {calls(answered(whole(message, "function_call")))[0].id for _ in range(2)}
    (first, *_) = ids
    assert first is not None
    assert len(first) == len("call_") + 24


def test_gigachat_22_a_structured_answer_is_json_text() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "card", "schema": {"type": "object"}}}
    message = {**function_call({"city": "Омск"}, "card"), "content": "Вот карточка:"}
    for events in (
        answered(whole(message, "function_call"), response_format=wanted),
        streamed(
            chunk({"content": "Вот "}), chunk(message), chunk({"content": "!"}, "function_call"), response_format=wanted
        ),
    ):
        assert events == [Text('{"city":"Омск"}'), Finish("stop", "function_call")]


def test_a_model_that_answers_in_text_after_all_is_heard() -> None:
    wanted = {"type": "json_object"}
    events = streamed(chunk({"content": '{"a"'}), chunk({"content": ":1}"}, "stop"), response_format=wanted)
    assert events == [Text('{"a":1}'), Finish("stop", "stop")]


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("blacklist", "content_filter"),
        ("request_filter", "content_filter"),
        ("response_blacklist", "content_filter"),
        ("new_word", "stop"),
    ],
)
def test_gigachat_23_finish_reasons(native: str, reason: str) -> None:
    for events in (answered(whole({"content": "Не буду."}, native)), streamed(chunk({"content": "Не буду."}, native))):
        assert events == [Text("Не буду."), Finish(reason, native)]  # type: ignore[arg-type]


@pytest.mark.parametrize("native", ["error", "function_call_error"])
def test_a_model_that_failed_is_an_error_with_its_usage(native: str) -> None:
    made = asked()
    with pytest.raises(UpstreamError, match="model failed"):
        read(made, whole({"content": "x"}, native))
    assert made.usage is not None


def test_a_finish_of_a_call_that_never_came_is_garbage() -> None:
    with pytest.raises(UpstreamProtocolError):
        answered(whole({"content": ""}, "function_call"))


def test_gigachat_27_a_stream_has_its_content_type() -> None:
    for headers in (((b"content-type", b"text/html"),), JSON, ()):
        with pytest.raises(UpstreamProtocolError) as caught:
            asked(stream=True).started(200, headers)
        assert caught.value.status == 502


@pytest.mark.parametrize(
    "data",
    [
        b"<html>Gateway</html>",
        b"",
        b"[]",
        b"{}",
        dumps({"choices": []}),
        whole({"content": 5}),
        whole({"content": "x"}, None),
        whole({"content": "x"})[:-1],
        b"[" * 100_000,
        whole({"content": "x"}).replace(b'"x"', b'"\xff"'),
    ],
)
def test_a_whole_answer_that_is_none(data: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        answered(data)


def test_an_error_in_the_place_of_an_answer() -> None:
    error = {"status": 500, "message": "Internal Server Error"}
    with pytest.raises(UpstreamError):
        answered(dumps(error))
    made = asked(stream=True)
    assert alone(made.feed(stream(*TALK[:2], done=False))) == [Text("Один, "), Text("два, три 🌍.")]
    with pytest.raises(UpstreamError):
        made.feed(stream(error, done=False))


def test_progress_of_built_in_tools_and_other_choices_are_not_the_answer() -> None:
    second = chunk({"content": "второй"})
    second["choices"][0]["index"] = 1
    events = streamed(
        chunk({"role": "function_in_progress", "content": "15"}), second, chunk({"content": "Готово"}, "stop")
    )
    assert events == [Text("Готово"), Finish("stop", "stop")]


def test_reasoning_in_its_own_field() -> None:
    message = {"content": "Лима", "reasoning_content": "Перу…"}
    expected = [ReasoningText("Перу…"), Text("Лима"), Finish("stop", "stop")]
    assert answered(whole(message)) == expected
    assert streamed(
        chunk({"reasoning_content": "Перу…"}), chunk({"content": "Лима", "reasoning_content": None}, "stop")
    ) == (expected)


THOUGHTS = [
    ("<think>Перу…</think>\n\nЛима", "Перу…", "Лима"),
    (" \n<think>а</think>б</think>", "а", "б</think>"),
    ("<think></think>Лима", "", "Лима"),
    ("<think>без конца", "без конца", ""),
    ("<think>почти </thin", "почти </thin", ""),
    ("<thinker> и <think>", "", "<thinker> и <think>"),
    ("Лима <think>не мысль</think>", "", "Лима <think>не мысль</think>"),
    ("<thi", "", "<thi"),
    (" " * 80 + "<think>а", "", " " * 80 + "<think>а"),
    ("  ", "", "  "),
]


@pytest.mark.parametrize(("content", "reasoning", "text"), THOUGHTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_reasoning_inside_the_text(content: str, reasoning: str, text: str, size: int) -> None:
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    events = streamed(*(chunk({"content": piece}) for piece in pieces), chunk({}, "stop"))
    assert (thought(events), said(events)) == (reasoning, text)


def test_gigachat_32_stop_cuts_exactly() -> None:
    text = "Первая строка.\nВторая.\n\nТретья.\n\nЧетвёртая."
    for size in range(1, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        made = asked(stream=True, stop=["\n\n"])
        events = alone(made.feed(stream(*(chunk({"content": piece}) for piece in pieces), done=False)))
        assert said(events) == "Первая строка.\nВторая."
        assert finish(events) == Finish("stop", "stop")
        assert made.feed(stream(chunk({}, "length", usage=usage()))) == []
        assert made.finish() == []
        assert made.usage == Usage(input_tokens=19, output_tokens=42, cached_tokens=2)  # billed as generated
    assert answered(whole({"content": text}, "length"), stop="\n\n") == [
        Text("Первая строка.\nВторая."),
        Finish("stop", "stop"),
    ]


def test_gigachat_32_a_stream_that_breaks_after_the_cut_was_complete_for_the_client() -> None:
    made = asked(stream=True, stop="два")
    assert said(made.feed(stream(*TALK[:2], done=False))) == "Один, "
    assert made.finish() == []


def test_text_held_for_a_stop_that_does_not_come_is_delivered() -> None:
    assert said(streamed(chunk({"content": "а\n"}), chunk({}, "length"), stop="\n\n")) == "а\n"


def test_a_completion_is_read_as_a_chat() -> None:
    events = answered(whole({"content": "три"}), kind="completions", prompt="раз, два,")
    assert events == [Text("три"), Finish("stop", "stop")]


def merged(events: Sequence[Event]) -> tuple[str, str, list[Any]]:
    rest = [event for event in events if not isinstance(event, Text | ReasoningText)]
    return said(events), thought(events), rest


@given(
    st.lists(st.text("<think>/ \nабв🌍", max_size=12), max_size=6),
    st.lists(st.integers(0, 2000), max_size=8),
    st.sampled_from([None, "\n\n", ["а", "бв"]]),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_any_stream_cut_anywhere_says_the_same(pieces: list[str], cuts: list[int], stop: Any, newline: bytes) -> None:
    data = stream(*(chunk({"content": piece}) for piece in pieces), chunk({}, "stop", usage=usage()), newline=newline)
    cuts = [cut for cut in cuts if cut < len(data)]
    assert answered(data, cuts, stream=True, stop=stop) == answered(data, stream=True, stop=stop)
    whole_text = "".join(pieces)
    joined = answered(stream(chunk({"content": whole_text}, "stop", usage=usage())), stream=True, stop=stop)
    assert merged(answered(data, stream=True, stop=stop)) == merged(joined)


@given(st.binary(max_size=300), st.booleans())
def test_garbage_is_only_ever_our_own_error(data: bytes, is_stream: bool) -> None:
    try:
        answered(data, stream=is_stream)
    except XRouterError:
        return
    raise AssertionError("garbage was taken for an answer")


def test_a_stream_with_one_byte_changed_is_only_ever_our_own_error() -> None:
    data = stream(*TALK, chunk(function_call({"city": "Омск"})))
    chance = random.Random(7)
    for _ in range(2000):
        at = chance.randrange(len(data))
        changed = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        try:
            answered(changed, stream=True)
        except XRouterError as error:
            json.dumps(error.body())


def test_gigachat_09_what_came_before_an_error_in_the_same_piece_is_given() -> None:
    reader = translator(stream=True)
    sent(reader)
    reader.started(200, EVENT_STREAM)
    events = alone(reader.feed(stream(*TALK[:2], done=False) + b"data: {oops\n\n"))
    assert said(events) == "Один, два, три 🌍."
    assert reader.complete
    with pytest.raises(XRouterError):
        reader.finish()
