"""F08, F23, F26: bodies, what comes behind them, and clients that leave."""

import time

import pytest
from front_app import Served

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"


def post(path: bytes, *lines: bytes) -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\nHost: a\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


CHUNKED = post(b"/a", b"Transfer-Encoding: chunked")


def in_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


@pytest.mark.parametrize("body", [b"", b"a", b"abc" * 100, b"x" * 300_000])
def test_declared_and_chunked_bodies(served: Served, body: bytes) -> None:
    chunked = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
    with served.client() as client:
        client.send(post(b"/a", b"Content-Length: %d" % len(body)) + body)
        assert client.answer().body == body
        client.send(CHUNKED + chunked + b"0\r\n\r\n")
        assert client.answer().body == body
    assert [seen for _, seen in served.probe.seen] == [body, body]


def test_chunked_byte_by_byte_with_trailers(served: Served) -> None:
    """Trailers are read and forgotten; they never join the headers that the app has been given."""
    with served.client() as client:
        client.send_in_pieces(
            in_bytes(CHUNKED + b"1\r\na\r\n2;x=y\r\nbc\r\n0\r\nHost: evil\r\nAuthorization: b\r\n\r\n")
        )
        assert client.answer().body == b"abc"
        client.send(GET)
        assert client.answer().status == 200
    assert served.probe.seen[0][0]["headers"] == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]
    assert served.probe.seen[1][0]["headers"] == [(b"host", b"a")]


def test_get_with_a_body(served: Served) -> None:
    with served.client() as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        assert client.answer().body == b"abc"
        client.send(GET)
        assert client.answer().status == 200


def test_one_byte_chunks_are_no_flood(served: Served) -> None:
    """A body in chunks of one byte has five bytes of framing for each, which is allowed."""
    with served.client() as client:
        client.send(CHUNKED + b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n")
        assert len(client.answer().body) == 50_000


@pytest.mark.parametrize(
    "flood", [b"1;" + b"e" * 30_000 + b"\r\na\r\n", b"0" * 10_000, b"0\r\n" + b"T: t\r\n" * 10_000]
)
def test_f23_framing_without_data(served: Served, flood: bytes) -> None:
    """Endless chunk extensions, leading zeros and trailers end with a 400. Broken on purpose: no `_framing` count."""
    sent = 0
    with served.client() as client:
        client.send(CHUNKED)
        while client.send_in_pieces([flood]) and sent < 20_000_000:
            sent += len(flood)
            flood = flood.removeprefix(b"0\r\n")
        (answer,) = client.answers()
    assert answer.status == 400
    assert sent < 20_000_000
    served.probe.wait(lambda: served.probe.left == ["/a"])


def test_expect_continue(served: Served) -> None:
    with served.client() as client:
        client.send(post(b"/a", b"Content-Length: 3", b"Expect: 100-continue"))
        assert client.head() == (100, ())
        client.send(b"abc")
        assert client.answer().body == b"abc"
        client.send(GET)
        assert client.answer().status == 200


def test_expect_continue_when_the_app_does_not_want_the_body(served: Served) -> None:
    """The final answer comes instead of 100, and the connection closes: nobody knows whether the body will come."""
    with served.client() as client:
        client.send(post(b"/early", b"Content-Length: 3", b"Expect: 100-continue"))
        (answer,) = client.answers()
    assert (answer.status, answer.header("connection")) == (413, "close")


@pytest.mark.parametrize(
    "request_head",
    [
        b"POST /a HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        post(b"/a", b"Content-Length: 3", b"Expect: tea"),
    ],
)
def test_expect_that_is_not_for_us(served: Served, request_head: bytes) -> None:
    with served.client() as client:
        client.send(request_head)
        client.send(b"abc")
        assert client.answer().body == b"abc"


def test_small_rest_of_a_body_is_read_away(served: Served) -> None:
    """An answer without a look at a small body leaves the connection open for the next request."""
    with served.client() as client:
        client.send(post(b"/early", b"Content-Length: 60000"))
        assert client.answer().header("connection") is None
        client.send(b"x" * 60_000 + GET)
        assert client.answer().status == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 70000", b"Transfer-Encoding: chunked"])
def test_large_rest_of_a_body_closes(served: Served, framing: bytes) -> None:
    with served.client() as client:
        client.send(post(b"/early", framing))
        (answer,) = client.answers()
        assert (answer.status, answer.header("connection")) == (413, "close")
        client.send_in_pieces([b"x" * 1000] * 10)


def test_f23_an_answer_survives_a_body_that_goes_on(served: Served) -> None:
    """The client writes on, is stopped soon, and reads the answer. Broken on purpose: `_close(linger=False)` resets."""
    with served.client() as client:
        client.send(post(b"/early", b"Content-Length: 100000000"))
        sent = 0
        while client.send_in_pieces([b"x" * 65536]):
            sent += 65536
        (answer,) = client.answers()
    assert (answer.status, answer.body) == (413, b"early")
    assert sent < 20_000_000  # what two sockets hold


def test_f23_more_than_declared(served: Served) -> None:
    """The surplus is not another request."""
    with served.client() as client:
        client.send(post(b"/slow", b"Content-Length: 3") + b"abcdef")
        (answer,) = client.answers()
    assert (answer.status, answer.header("connection")) == (200, "close")
    assert served.probe.started == ["/slow"]


def test_surplus_that_comes_during_a_stream(served: Served) -> None:
    """The head of the answer is gone without `connection: close`; the answer ends, then the connection."""
    with served.client() as client:
        client.send(post(b"/stream", b"Content-Length: 1"))
        assert client.head()[0] == 200
        client.send(b"!" + GET)
        assert b"".join(iter(client.chunk, b"")) == b"begun!"
        assert client.ends()
    assert served.probe.started == ["/stream"]


def test_surplus_without_end(served: Served) -> None:
    """A client that keeps sending while it is answered is thrown out."""
    with served.client() as client:
        client.send(GET.replace(b"/a", b"/hold"))
        served.probe.wait(lambda: bool(served.probe.seen))
        while client.send_in_pieces([GET * 100]):
            pass
        assert client.ends()
    served.probe.wait(lambda: served.probe.left == ["/hold"])


def test_pipelined_requests_are_not_read(served: Served) -> None:
    with served.client() as client:
        client.send(GET * 3)
        answers = client.answers()
    assert [answer.header("connection") for answer in answers] == ["close"]
    assert served.probe.started == ["/a"]


def test_request_after_connection_close(served: Served) -> None:
    with served.client() as client:
        client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET)
        (answer,) = client.answers()
    assert (answer.status, answer.header("connection")) == (200, "close")


def test_line_end_behind_a_body(served: Served) -> None:
    """Old clients send one too many; it is neither a request nor a fault."""
    with served.client() as client:
        for _ in range(3):
            client.send(post(b"/a", b"Content-Length: 1") + b"a\r\n")
            assert client.answer().header("connection") is None


UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(
    ("framing", "wire"),
    [
        (b"Content-Length: 3", b"abc"),
        (b"Transfer-Encoding: chunked", b"1\r\na\r\n2\r\nbc\r\n0\r\nX: y\r\n\r\n"),
        (b"Content-Length: 0", b""),
        (b"X: y", b""),
    ],
    ids=["declared", "chunked", "empty", "none"],
)
def test_upgrade_is_ignored(served: Served, framing: bytes, wire: bytes, pieces: bool) -> None:
    """JDK clients ask for h2c with every first request (uvicorn issue 2722); its body must come through all the same."""
    request = post(b"/a", framing, *UPGRADE) + wire
    with served.client() as client:
        client.send_in_pieces(in_bytes(request) if pieces else [request])
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b"abc" if wire else b"")
        client.send(GET)
        assert client.answer().status == 200
        client.send(request)
        assert client.answer().status == 200
    headers = served.probe.seen[0][0]["headers"]
    assert (b"upgrade", b"h2c") in headers
    assert (b"x", b"y") not in headers or framing == b"X: y"


def test_bytes_behind_an_ignored_upgrade(served: Served) -> None:
    with served.client() as client:
        client.send(post(b"/slow", b"Content-Length: 1", *UPGRADE) + b"a" + GET)
        (answer,) = client.answers()
    assert (answer.status, answer.header("connection")) == (200, "close")
    assert served.probe.started == ["/slow"]


def test_broken_body_behind_an_ignored_upgrade(served: Served) -> None:
    with served.client() as client:
        client.send(post(b"/a", b"Transfer-Encoding: chunked", *UPGRADE) + b"zz\r\n")
        (answer,) = client.answers()
    assert answer.status == 400
    assert "chunk size" in answer.json()["error"]["message"]
    assert served.probe.started == []


def test_websocket_gets_an_ordinary_answer(served: Served) -> None:
    lines = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAA")
    with served.client() as client:
        client.send(post(b"/a", *lines).replace(b"POST", b"GET"))
        assert client.answer().status == 200


def test_f08_client_ends_in_the_middle_of_a_body(served: Served) -> None:
    with served.client() as client:
        client.send(post(b"/a", b"Content-Length: 10") + b"abc")
        served.probe.wait(lambda: bool(served.probe.started))
        client.half_close()
        assert client.ends()
    served.probe.wait(lambda: served.probe.left == ["/a"])
    assert served.probe.seen == []


def test_f08_half_close_counts_as_leaving(served: Served) -> None:
    with served.client() as client:
        client.send(GET.replace(b"/a", b"/hold"))
        served.probe.wait(lambda: bool(served.probe.seen))
        client.half_close()
        assert client.ends()
    served.probe.wait(lambda: served.probe.left == ["/hold"])


@pytest.mark.parametrize("how", ["close", "reset"])
def test_f08_the_app_hears_within_a_second_that_the_client_left(served: Served, how: str) -> None:
    """Also `send` stays quiet then, which the app tries."""
    client = served.client()
    client.send(GET.replace(b"/a", b"/hold"))
    served.probe.wait(lambda: bool(served.probe.seen))
    began = time.monotonic()
    getattr(client, how)()
    served.probe.wait(lambda: served.probe.left == ["/hold"])
    assert time.monotonic() - began < 1.0


def test_f08_the_app_hears_it_with_a_large_body_unread(served: Served) -> None:
    """Reading had paused for the body and goes on once it is whole, so the end is noticed."""
    client = served.client()
    client.send(post(b"/hold", b"Content-Length: 400000") + b"x" * 400_000)
    served.probe.wait(lambda: bool(served.probe.seen))
    client.close()
    served.probe.wait(lambda: served.probe.left == ["/hold"])
