"""Garbage, and requests that are almost right: the server stays alive and never gives two answers to one request."""

from itertools import pairwise

from front_app import Served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GET = b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n"
LINES = st.sampled_from(
    [
        b"GET /a HTTP/1.1\r\n",
        b"POST /a HTTP/1.1\r\n",
        b"POST /early HTTP/1.1\r\n",
        b"POST /stream HTTP/1.1\r\n",
        b"HEAD /slow HTTP/1.1\r\n",
        b"GET /a HTTP/1.0\r\n",
        b"GET http://a/ HTTP/1.1\r\n",
        b"Host: a\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 70000\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: Upgrade\r\n",
        b"Upgrade: h2c\r\n",
        b"Expect: 100-continue\r\n",
        b"X: " + b"y" * 3000 + b"\r\n",
        b"\r\n",
        b"\n",
        b"abc",
        b"3\r\nabc\r\n",
        b"0\r\n",
        b"0\r\n\r\n",
        b"zz\r\n",
        b" ",
        b"\0",
        b"\xff",
    ]
)
STARTS = st.sampled_from(
    [b"", GET, b"POST /a HTTP/1.1\r\nHost: a\r\n", b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
REQUESTS = st.tuples(STARTS, st.lists(LINES | st.binary(max_size=12), max_size=14).map(b"".join)).map(b"".join)


def survives(shared: Served, data: bytes, cuts: list[int]) -> None:
    shared.probe.started.clear()
    with shared.client(timeout_s=10) as client:
        edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        client.send_in_pieces(data[a:b] for a, b in pairwise(edges))
        written = client.for_now(0.02)
        client.half_close()
        written += client.rest()
    # "HTTP/1.1 100" is no answer; every other status line answers one request that began.
    answers = written.count(b"HTTP/1.1 ") - written.count(b"HTTP/1.1 100 ")
    refused = written.count(b'"param":null,"metadata"')
    assert answers <= len(shared.probe.started) + 1
    assert refused <= 1
    with shared.client() as client:
        client.send(GET)
        assert client.answer().status == 200


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=REQUESTS, cuts=st.lists(st.integers(0, 400), max_size=6))
def test_f26_almost_requests(shared: Served, data: bytes, cuts: list[int]) -> None:
    survives(shared, data, cuts)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=4))
def test_f26_garbage(shared: Served, data: bytes, cuts: list[int]) -> None:
    survives(shared, data, cuts)
