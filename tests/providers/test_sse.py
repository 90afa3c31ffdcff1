from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter.errors import UpstreamProtocolError
from xrouter.providers.sse import ServerSentEvent, SseDecoder


def decode(*pieces: bytes, limit: int = 1 << 20) -> list[ServerSentEvent]:
    decoder = SseDecoder(limit)
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return [*events, *decoder.finish()]


EVERYTHING = (
    b"\xef\xbb\xbfdata: one\n\n"
    b": a comment\n\n"
    b"event: named\ndata:two\r\n\r\n"
    b"data: three\rdata: more\rdata\r\r"
    b"id: 7\nretry: 5\nunknown: x\ndata:  indented\n\n"
    b"event: without data\n\n" + "data: Привет, мир 🌍\n\n".encode() + b"data: [DONE]\n\n"
)
EVENTS = [
    ServerSentEvent(b"one"),
    ServerSentEvent(b"two", "named"),
    ServerSentEvent(b"three\nmore\n"),
    ServerSentEvent(b" indented"),
    ServerSentEvent("Привет, мир 🌍".encode()),
    ServerSentEvent(b"[DONE]"),
]


def test_every_rule_of_the_grammar() -> None:
    assert decode(EVERYTHING) == EVENTS


def test_a_cut_at_any_byte_changes_nothing() -> None:
    for cut in range(len(EVERYTHING) + 1):
        assert decode(EVERYTHING[:cut], b"", EVERYTHING[cut:]) == EVENTS, cut


def test_byte_by_byte() -> None:
    assert decode(*(EVERYTHING[index : index + 1] for index in range(len(EVERYTHING)))) == EVENTS


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_any_bytes_cut_anywhere_give_the_same_events(body: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[start:end] for start, end in pairwise(places)]
    assert decode(*pieces) == decode(body)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_the_three_line_ends(newline: bytes) -> None:
    body = b"event: a" + newline + b"data: 1" + newline + b"data: 2" + newline + newline
    for cut in range(len(body) + 1):
        assert decode(body[:cut], body[cut:]) == [ServerSentEvent(b"1\n2", "a")], cut


def test_an_event_is_given_when_its_blank_line_comes_not_later() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: 1\n") == []
    assert decoder.feed(b"\n") == [ServerSentEvent(b"1")]
    assert decoder.feed(b"data: 2\r\n\r") == [ServerSentEvent(b"2")]
    assert decoder.feed(b"\ndata: 3\n\n") == [ServerSentEvent(b"3")]


def test_the_last_event_may_lack_its_blank_line() -> None:
    assert decode(b"data: [DONE]") == [ServerSentEvent(b"[DONE]")]
    assert decode(b"data: [DONE]\n") == [ServerSentEvent(b"[DONE]")]
    assert decode(b"event: only a name\n") == []


@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: " + b"x" * 101 + b"\n\n"],
        [b"data: " + b"x" * 101],
        [b"data: " + b"x" * 60 + b"\n", b"data: " + b"x" * 60 + b"\n"],
        [b":" + b"x" * 101],
        [b"x" * 40] * 3,
    ],
)
def test_an_event_has_a_limit(pieces: list[bytes]) -> None:
    with pytest.raises(UpstreamProtocolError, match="too long"):
        decode(*pieces, limit=100)


def test_the_last_line_counts_once() -> None:
    assert decode(b"data: " + b"x" * 80, limit=100) == [ServerSentEvent(b"x" * 80)]


def test_the_limit_is_for_one_event_not_for_the_stream() -> None:
    decoder = SseDecoder(100)
    for _ in range(50):
        for piece in (b"data: " + b"x" * 40, b"x" * 40, b"\n", b"\n", b": ping\n\n"):
            decoder.feed(piece)
