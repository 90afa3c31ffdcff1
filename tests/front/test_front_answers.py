"""Answers on the wire: framing by version and method, and apps that break."""

import gc
import logging
import time
from typing import Any

import pytest
from front_app import Served, respond
from kit.raw_client import RawClient

from xrouter.front import ThreadedServer
from xrouter.front.connection import Connection
from xrouter.front.exchange import Exchange
from xrouter.front.reader import Reader


def get(path: bytes, version: bytes = b"1.1", method: bytes = b"GET", more: bytes = b"") -> bytes:
    return method + b" " + path + b" HTTP/" + version + b"\r\nHost: a\r\n" + more + b"\r\n"


def test_kept_alive(served: Served) -> None:
    with served.client() as client:
        for _ in range(3):
            client.send(get(b"/a"))
            answer = client.answer()
            assert answer.header("connection") is None
            assert answer.header("date") is not None
            assert answer.header("server") is None
    assert len(served.probe.seen) == 3


def test_chunked_where_nothing_is_declared(served: Served) -> None:
    with served.client() as client:
        client.send(get(b"/parts"))
        answer = client.answer()
        assert answer.header("transfer-encoding") == "chunked"
        assert answer.body == b"onetwothree"
        client.send(get(b"/a"))
        assert client.answer().status == 200


def test_http_1_0_ends_with_the_connection(served: Served) -> None:
    """An HTTP/1.0 client knows no chunks (RFC 9112 section 6.1)."""
    with served.client() as client:
        client.send(get(b"/parts", b"1.0"))
        (answer,) = client.answers()
    assert answer.header("transfer-encoding") is None
    assert (answer.header("connection"), answer.body) == ("close", b"onetwothree")


def test_http_1_0_keep_alive_is_not_offered(served: Served) -> None:
    with served.client() as client:
        client.send(get(b"/a", b"1.0", more=b"Connection: keep-alive\r\n"))
        (answer,) = client.answers()
    assert answer.header("connection") == "close"


def test_client_asks_to_close(served: Served) -> None:
    with served.client() as client:
        client.send(get(b"/a", more=b"Connection: close\r\n"))
        (answer,) = client.answers()
    assert answer.header("connection") == "close"


@pytest.mark.parametrize("path", [b"/a", b"/parts"])
def test_head_has_no_body(served: Served, path: bytes) -> None:
    with served.client() as client:
        client.send(get(path, method=b"HEAD"))
        assert client.answer(method="HEAD").status == 200
        client.send(get(b"/a"))
        assert client.answer().status == 200


def test_no_content_has_no_framing(served: Served) -> None:
    with served.client() as client:
        client.send(get(b"/empty"))
        answer = client.answer()
        assert answer.status == 204
        assert answer.header("transfer-encoding") is None
        client.send(get(b"/a"))
        assert client.answer().status == 200


@pytest.mark.parametrize(
    "path", [b"/raise", b"/return", b"/headers?a=b%0d%0ac", b"/headers?a%0a=b", b"/headers?=b", b"/headers?a:=b"]
)
def test_broken_app_is_answered_for(served: Served, caplog: pytest.LogCaptureFixture, path: bytes) -> None:
    with served.client() as client:
        client.send(get(path))
        (answer,) = client.answers()
    assert (answer.status, answer.json()["error"]["type"]) == (500, "internal_error")
    assert answer.header("connection") == "close"
    assert answer.header("x-request-id") == served.probe.refusals[0].request_id
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    caplog.clear()


def test_broken_app_is_answered_for_on_head_without_a_body(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with served.client() as client:
        client.send(get(b"/raise", method=b"HEAD"))
        (answer,) = client.answers(method="HEAD")
    assert answer.status == 500
    caplog.clear()


def test_app_that_breaks_in_its_answer_is_cut(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """The chunked body has no end, so the client knows; nothing else is written."""
    with served.client() as client:
        client.send(get(b"/raise-late"))
        assert client.head()[0] == 200
        assert client.chunk() == b"some"
        assert client.ends()
    assert served.probe.refusals == []
    caplog.clear()


def test_app_that_sends_more_than_it_declares(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is on the wire yet when that is seen: the front answers in the app's place."""
    with served.client() as client:
        client.send(get(b"/headers?content-length=1"))
        assert client.head()[0] == 500
    assert "Content-Length" in caplog.text
    assert len(served.probe.refusals) == 1
    served.probe.refusals.clear()
    caplog.clear()


def test_app_that_sends_less_than_it_declares(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """It sends two bytes of three: the connection ends before the answer does."""
    with served.client() as client:
        client.send(get(b"/headers?content-length=3"))
        assert client.head()[0] == 200
        assert client.rest() == b"ok"
    assert "Content-Length" in caplog.text
    caplog.clear()


@pytest.mark.parametrize(
    "wire",
    [get(b"/a") * 2, b"garbage\r\n\r\n", get(b"/a", more=b"Content-Length: 9\r\n"), get(b"/hold"), get(b"/flood")],
    ids=["served", "refused", "left in its body", "left in its answer", "left in a stream"],
)
def test_nothing_is_left_for_the_collector(served: Served, wire: bytes) -> None:
    """What a request has used is freed by itself: collections are rare in the gateway."""
    gc.collect()
    gc.disable()
    try:
        with served.client() as client:
            client.send(wire)
            served.probe.wait(lambda: bool(served.probe.started or served.probe.refusals))
        served.wait_until_idle()
        served.probe.seen.clear()
        assert [item for item in gc.get_objects() if isinstance(item, (Exchange, Connection, Reader))] == []
    finally:
        gc.enable()


def test_on_disconnect_calls_back_once_the_client_leaves() -> None:
    """Also when the callback is given after the client left, and never after a complete answer."""
    called: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        name = scope["path"]
        on_disconnect = scope["xrouter.on_disconnect"]
        if name != "/late":
            on_disconnect(lambda: called.append(name))
        if name == "/answered":
            await respond(send, b"")
        assert (await receive())["type"] == "http.disconnect"
        if name == "/late":
            on_disconnect(lambda: called.append(name))
        called.append("end")

    with ThreadedServer(app, lifespan="off") as threaded:
        for name in (b"/waiting", b"/late", b"/answered"):
            with RawClient((threaded.host, threaded.port)) as client:
                client.send(get(name))
                if name == b"/answered":
                    assert client.answer().status == 200
            while called[-1:] != ["end"]:
                time.sleep(0.005)
            called.append("next")
    assert called == ["/waiting", "end", "next", "/late", "end", "next", "end", "next"]
