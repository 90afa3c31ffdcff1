"""Requests that are shed as they come: what a glance takes for whole, and that connections go on, on real sockets."""

import time
from collections.abc import Sequence

import pytest
from kit.raw_client import Answer, RawClient
from test_front_overload import crowded, request, served, serving, until  # noqa: F401  a fixture is used by its name

from xrouter.front import ThreadedServer
from xrouter.front.glance import Glance

WHOLE = request("key")


def headed(line: bytes) -> bytes:
    """The same with one more field."""
    return WHOLE.replace(b"Host: a\r\n", b"Host: a\r\n" + line + b"\r\n")


CHUNKED = (
    b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\n{}\r\n0\r\nAuthorization: Bearer trailer\r\n\r\n"
)


@pytest.mark.parametrize(
    ("data", "credential"),
    [
        (WHOLE, b"Bearer key"),
        (WHOLE.replace(b"/v1/", b"/api/v1/"), b"Bearer key"),
        (WHOLE.replace(b"Authorization: Bearer key", b"X-API-Key: \t other \t"), b"other"),
        (headed(b"x-api-key: first"), b"first"),
        (headed(b"AUTHORIZATION:"), b""),
        (WHOLE.replace(b"Authorization: Bearer key\r\n", b""), None),
        (request("", body=b"\r\nauthorization: Bearer body\r\n\r\n").replace(b"Authorization: Bearer \r\n", b""), None),
        (CHUNKED, None),
        (headed(b"Expect: 100-continue"), b"Bearer key"),
    ],
)
def test_a_whole_request_and_who_sends_it(data: bytes, credential: bytes | None) -> None:
    glance = Glance()
    for _ in range(2):
        assert glance.is_whole(data)
        assert glance.credential == credential


@pytest.mark.parametrize(
    "data",
    [
        WHOLE[:-1],
        WHOLE[:40],
        WHOLE + b"P",
        WHOLE * 2,
        WHOLE + b"{}",
        CHUNKED[:-2],
        headed(b"Connection: close"),
        headed(b"Connection: upgrade\r\nUpgrade: h2c"),
        headed(b"Content-Length: 2"),
        headed(b"Transfer-Encoding: chunked"),
        headed(b" folded"),
        WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: a", b"Connection: keep-alive"),
        WHOLE.replace(b"\r\n", b"\n"),
        b"\r\n" + WHOLE,
        request("key", "/health"),
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
        b"",
        b"garbage",
    ],
)
def test_anything_else_is_left_to_the_connection(data: bytes) -> None:
    """And the next one is told as if it had never been. Fails where the parser that has seen it is used again."""
    glance = Glance()
    assert not glance.is_whole(data)
    assert glance.is_whole(WHOLE)
    assert glance.credential == b"Bearer key"


def shed(server: ThreadedServer, pieces: Sequence[bytes]) -> tuple[RawClient, Answer]:
    """A connection on which a request was shed that came in these pieces, while a crowd asks with the same key."""
    for _ in range(100):  # the queue may have had room for it
        client = RawClient((server.host, server.port), timeout_s=20)
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(0.05)
            client.send(piece)
        answer = client.answer()
        if answer.status == 503:
            return client, answer
        client.close()
    pytest.fail("it was never shed")


NOISY = request("noisy", body=b'{"model": "m"}')


@pytest.mark.parametrize(
    "pieces",
    [[NOISY], [NOISY[:30], NOISY[30:]], [NOISY[:-5], NOISY[-5:]], [NOISY[:-14], NOISY[-14:-7], NOISY[-7:]]],
    ids=["whole", "in its head", "in its body", "head and body and body"],
)
def test_a_connection_goes_on_after_a_shed_request(pieces: list[bytes]) -> None:
    """However it was cut: the answers are the same, nothing of it is taken for the next request, and that is served.

    Fails where the rest of a body is not waited for, or where a request is taken for whole before it is.
    """
    with serving() as (work, server), crowded(server):
        until(lambda: work.shed.total() > 200)
        client, answer = shed(server, pieces)
        error = answer.json()["error"]
        assert (error["code"], error["type"], error["param"]) == (503, "overloaded", None)
        assert error["metadata"] == {"error_type": "provider_overloaded"}
        assert sorted(name for name, _ in answer.headers) == [
            "content-length", "content-type", "date", "retry-after", "x-request-id",
        ]  # fmt: skip
        for _ in range(3):
            client.send(request("quiet"))
            assert client.answer().status == 200
        client.close()
        assert "quiet" in work.begun


@pytest.mark.parametrize(
    "wire",
    [NOISY * 2, NOISY.replace(b"Host: a\r\n", b"Host: a\r\nConnection: close\r\n"), NOISY.replace(b"1.1", b"1.0")],
    ids=["pipelined", "close", "HTTP/1.0"],
)
def test_a_connection_that_was_to_close_closes(wire: bytes) -> None:
    """There is one answer. Fails where the glance asks whether the connection stays once the parser has forgotten it."""
    with serving() as (work, server), crowded(server):
        until(lambda: work.shed.total() > 200)
        client, answer = shed(server, [wire])
        assert answer.header("connection") == "close" or wire == NOISY * 2
        assert client.ends()
        client.close()


def test_a_shed_request_is_counted_once() -> None:
    with serving() as (work, server):
        with crowded(server) as statuses:
            until(lambda: work.shed.total() > 500)
        assert statuses[503] == work.shed.total()
        assert statuses[200] == len(work.begun)
        assert set(statuses) == {200, 503}


def test_an_idle_connection_has_its_time_after_a_shed_request() -> None:
    """Fails where the time goes on from the connection's opening: it would be cut off, or end as a slow head."""
    with serving(header_timeout_s=0.5, idle_timeout_s=30) as (work, server), crowded(server):
        until(lambda: work.shed.total() > 200)
        client, _ = shed(server, [NOISY])
        time.sleep(1.0)
        client.send(request("quiet"))
        assert client.answer().status == 200
        client.close()
