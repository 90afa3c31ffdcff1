"""F27: silent, slow and half-dead clients. The limits are short here; the clock is the real one."""

import socket
import time
from collections.abc import Iterator

import pytest
from front_app import CHUNK, Served
from kit.raw_client import RawClient

LIMIT_S = 0.3
GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = b"x" * 8_000_000
POST = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with Served(
        header_timeout_s=LIMIT_S, body_timeout_s=LIMIT_S, idle_timeout_s=3 * LIMIT_S, write_timeout_s=4 * LIMIT_S
    ) as served:
        # Else the kernel cuts slow readers off in the front's place.
        served.threaded.server.sockets[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
        yield served


class Stopwatch:
    def __init__(self) -> None:
        self.began = time.monotonic()

    def assert_about(self, seconds: float) -> None:
        elapsed = time.monotonic() - self.began
        assert seconds - 0.05 <= elapsed <= seconds + 0.6, elapsed


def test_silent_connection_is_closed(served: Served) -> None:
    with served.client() as client:
        watch = Stopwatch()
        assert client.ends()
        watch.assert_about(LIMIT_S)
    assert served.probe.refusals == []


def test_only_line_ends_count_as_silence(served: Served) -> None:
    with served.client() as client:
        client.send(b"\r\n\r\n")
        assert client.ends()


@pytest.mark.parametrize("part", [b"G", b"GET /a HTTP/1.1\r\nHo", GET[:-2]])
def test_head_that_stops(served: Served, part: bytes) -> None:
    with served.client() as client:
        watch = Stopwatch()
        client.send(part)
        (answer,) = client.answers()
        watch.assert_about(LIMIT_S)
    assert (answer.status, answer.header("connection")) == (408, "close")
    assert answer.json()["error"]["type"] == "request_timeout"
    assert served.probe.started == []


@pytest.mark.parametrize("first", [True, False], ids=["first request", "later request"])
def test_head_that_drips(served: Served, first: bool) -> None:
    """Each byte comes in good time, the whole does not. Broken on purpose: `_since` renewed by every byte."""
    with served.client() as client:
        if not first:
            client.send(GET)
            client.answer()
        watch = Stopwatch()
        for i in range(1000):
            if not client.send_in_pieces([b"GET /aaaaaaaaaaaaaaaaa"[i : i + 1] or b"a"]):
                break
            time.sleep(0.02)
            if time.monotonic() - watch.began > 5:
                break
        watch.assert_about(LIMIT_S + 1.0)  # and the linger, in which bytes are still taken
        (answer,) = client.answers()
    assert answer.status == 408


def test_idle_connection_is_closed(served: Served) -> None:
    with served.client() as client:
        client.send(GET)
        assert client.answer().status == 200
        watch = Stopwatch()
        assert client.ends()
        watch.assert_about(3 * LIMIT_S)


def test_idle_deadline_is_renewed(served: Served) -> None:
    with served.client() as client:
        for _ in range(4):
            client.send(GET)
            assert client.answer().status == 200
            time.sleep(1.5 * LIMIT_S)


def test_body_that_stops(served: Served) -> None:
    with served.client() as client:
        client.send(POST + b"abc")
        watch = Stopwatch()
        (answer,) = client.answers()
        watch.assert_about(LIMIT_S)
    assert (answer.status, answer.header("connection")) == (408, "close")
    served.probe.wait(lambda: served.probe.left == ["/a"])
    assert served.probe.seen == []


def test_app_that_answers_after_the_front(served: Served) -> None:
    """Its answer is dropped in silence. Broken on purpose: `refuse` without `drop`."""
    with served.client() as client:
        client.send(POST.replace(b"/a", b"/late") + b"abc")
        (answer,) = client.answers()
        assert answer.status == 408
        served.probe.wait(lambda: served.probe.left == ["/late"])


def test_body_that_drips_is_let_be(served: Served) -> None:
    """It takes longer than the limit as a whole, but no pause does."""
    with served.client() as client:
        client.send(POST)
        for _ in range(10):
            time.sleep(LIMIT_S / 5)
            client.send(b"a")
        assert client.answer().body == b"a" * 10


def test_body_that_stops_while_the_app_answers(served: Served) -> None:
    """An answer under way is cut, not followed by another."""
    with served.client() as client:
        client.send(POST.replace(b"/a", b"/stream"))
        assert client.head()[0] == 200
        assert client.chunk() == b"begun"
        assert client.ends()
    served.probe.wait(lambda: served.probe.left == ["/stream"])


def test_body_that_stops_after_the_answer(served: Served) -> None:
    with served.client() as client:
        client.send(POST.replace(b"/a", b"/early"))
        assert client.answer().status == 413
        assert client.ends()


def test_the_apps_own_delay_is_not_the_clients(served: Served) -> None:
    """The app leaves a large body alone for longer than the limit: reading pauses, and the client's clock with it."""
    body = b"x" * 2_000_000
    with served.client() as client:
        client.send(b"POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        client.send(body)
        assert len(client.answer().body) == len(body)


def test_waiting_for_100_is_not_the_clients_delay(served: Served) -> None:
    with served.client() as client:
        client.send(POST.replace(b"/a", b"/ignore").replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert client.head() == (100, ())
        time.sleep(LIMIT_S / 2)
        client.send(b"a" * 10)
        assert client.answer().body == b"a" * 10


def test_body_that_never_comes_after_100(served: Served) -> None:
    with served.client() as client:
        client.send(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert client.head() == (100, ())
        watch = Stopwatch()
        (answer,) = client.answers()
        watch.assert_about(LIMIT_S)
    assert answer.status == 408


def test_app_may_take_its_time(served: Served) -> None:
    with served.client() as client:
        client.send(GET.replace(b"/a", b"/hold"))
        time.sleep(4 * LIMIT_S)
        assert served.probe.left == []


def test_slow_reader_pauses_the_app_and_is_cut(served: Served) -> None:
    """F27. The app is held up after what two sockets and one buffer take; then the client is thrown out."""
    with served.client(receive_buffer=4096) as client:
        client.send(GET.replace(b"/a", b"/flood"))
        served.probe.wait(lambda: served.probe.sent > 0)
        time.sleep(LIMIT_S)
        held_at = served.probe.sent
        watch = Stopwatch()
        served.probe.wait(lambda: served.probe.left == ["/flood"])
        watch.assert_about(3 * LIMIT_S)
        assert served.probe.sent <= held_at + len(CHUNK)
    assert held_at < 1_000_000


def test_reader_that_goes_on_is_not_cut(served: Served) -> None:
    """Slow as it is, it takes something within the limit each time."""
    with served.client(receive_buffer=4096) as client:
        client.send(GET.replace(b"/a", b"/flood"))
        for _ in range(25):
            time.sleep(LIMIT_S / 3)
            taken = 0
            while taken < 200_000:
                data = client.read(65536)
                assert data
                taken += len(data)
        assert served.probe.left == []


def large_answer(served: Served) -> RawClient:
    """A client that has not read a byte of an answer which the app has already done with."""
    client = served.client(receive_buffer=4096)
    client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(LARGE))
    client.send(LARGE)
    served.probe.wait(lambda: bool(served.probe.seen))
    return client


def test_reader_of_one_large_answer_is_not_cut(served: Served) -> None:
    """It takes longer than all limits, but takes something all the time. Broken on purpose: `unsent < before` never so."""
    with large_answer(served) as client:
        taken = paused = 0
        while data := client.read(65536):
            taken += len(data)
            if taken - paused > 300_000:
                paused = taken
                time.sleep(LIMIT_S / 3)
        assert taken > len(LARGE)


def test_reader_that_never_takes_the_last_bytes(served: Served) -> None:
    """An answer that is complete for the app, in a buffer that nobody empties, does not hold the connection for ever."""
    with large_answer(served):
        served.wait_until_idle(8)
