from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter.errors import UpstreamProtocolError
from xrouter.providers.ndjson import NdjsonSplitter

BODY = 'data: {"a": "Перу 🦙"}\r\n\n: note\nevent: x\n\ufeff{"b": 1}\n  {"c":2}\r\ndata: [DONE]\n{"d":3}'.encode()
LINES = ['{"a": "Перу 🦙"}'.encode(), '\ufeff{"b": 1}'.encode(), b'{"c":2}', b'{"d":3}']


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    splitter = NdjsonSplitter()
    edges = [0, *sorted(cuts), len(data)]
    lines = [line for start, end in pairwise(edges) for line in splitter.feed(data[start:end])]
    return lines + splitter.finish()


def test_a_stream_cut_at_every_byte_has_the_same_lines() -> None:
    for cut in range(len(BODY) + 1):
        assert split(BODY, [cut]) == LINES
    assert split(BODY, list(range(len(BODY)))) == LINES


@given(st.lists(st.integers(0, len(BODY))))
def test_a_stream_cut_anywhere_has_the_same_lines(cuts: list[int]) -> None:
    assert split(BODY, cuts) == LINES


def test_a_byte_order_mark_opens_a_stream() -> None:
    assert split(b'\xef\xbb\xbf{"a":1}\n', []) == [b'{"a":1}']


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_line_beyond_the_limit_is_refused(ending: bytes) -> None:
    splitter = NdjsonSplitter(max_line_bytes=10)
    assert splitter.feed(b'{"abc":12}\n') == [b'{"abc":12}']
    splitter.feed(b'{"abc"')
    with pytest.raises(UpstreamProtocolError):
        splitter.feed(b":1234}" + ending)


def test_many_small_pieces_cost_no_more_than_their_bytes() -> None:
    splitter = NdjsonSplitter()
    for _ in range(100_000):
        splitter.feed(b"x")
    assert splitter.feed(b"\n") == [b"x" * 100_000]
