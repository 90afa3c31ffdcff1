import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter.errors import BadRequest
from xrouter.events import Event, Finish, ReasoningText, Text, ToolCallPart
from xrouter.providers.stop import MAX_SEQUENCE_CHARS, MAX_SEQUENCES, StopCutter

letters = st.text("ab\n", max_size=30)
stops = st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3)


def stopped(text: str, sequences: list[str]) -> str:
    """The rule itself, letter by letter: the first letter that completes a sequence ends the text before it."""
    for end in range(1, len(text) + 1):
        complete = [sequence for sequence in sequences if text[:end].endswith(sequence)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(letters, stops, st.lists(st.integers(1, 5), max_size=30))
def test_any_pieces_give_what_the_rule_says(text: str, sequences: list[str], sizes: list[int]) -> None:
    cutter = StopCutter(sequences)
    delivered, rest = "", text
    for size in [*sizes, len(text) or 1]:
        delivered += cutter.push(rest[:size])
        rest = rest[size:]
        assert stopped(text, sequences).startswith(delivered)  # nothing of a stop sequence leaks on the way
    delivered += cutter.flush()
    assert delivered == stopped(text, sequences)
    assert cutter.cut == (delivered != text)


def apply(sequences: list[str], *events: Event) -> list[Event]:
    cutter = StopCutter(sequences)
    return [delivered for event in events for delivered in cutter.apply([event])]


def test_the_finish_comes_with_the_cut_and_nothing_after_it() -> None:
    assert apply(
        ["\n\n"],
        Text("one\n"),
        Text("\ntwo"),
        Text("three"),
        ToolCallPart(0, "x", "f", "{}"),
        Finish("length", "length"),
    ) == [Text("one"), Finish("stop", "stop")]


def test_held_text_comes_before_what_interrupts_it() -> None:
    call = ToolCallPart(0, "call_1", "f", "{}")
    assert apply(["\n\n"], Text("one\n"), call, Finish("tool_calls", "function_call")) == [
        Text("one"),
        Text("\n"),
        call,
        Finish("tool_calls", "function_call"),
    ]


def test_reasoning_is_not_cut() -> None:
    assert apply(["b"], ReasoningText("abc"), Text("abc")) == [ReasoningText("abc"), Text("a"), Finish("stop", "stop")]


def test_without_sequences_everything_passes() -> None:
    events = [Text(""), Text("a"), Finish("length", "length")]
    assert StopCutter([]).apply(events) == events
    assert StopCutter([""]).apply(events) == events


def test_bounds() -> None:
    with pytest.raises(BadRequest):
        StopCutter(["x"] * (MAX_SEQUENCES + 1))
    with pytest.raises(BadRequest):
        StopCutter(["x" * (MAX_SEQUENCE_CHARS + 1)])
