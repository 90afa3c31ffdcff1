"""More requests than the gateway can answer, on real sockets: who is served, who is told 503, and what that answer is."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from front_app import respond
from kit.raw_client import Answer, RawClient

from xrouter.config.settings import Server
from xrouter.front import ThreadedServer, overload
from xrouter.front.start_queue import STARTS_A_TURN, Reason

QUEUE_S = 0.4
WORK_S = 0.004  # of the loop's time that a request takes: 250/s, and 50 may wait


def request(key: str = "noisy", path: str = "/v1/chat/completions", body: bytes = b"{}") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Work:
    """An app that keeps the loop busy, or waits for something else as for an upstream."""

    def __init__(self) -> None:
        self.busy_s = WORK_S
        self.idle_s = 0.0
        self.begun: list[str] = []  # whose requests, in their order
        self.shed: Counter[Reason] = Counter()
        self.gate = threading.Event()  # while it is not set, the loop stands still at the first request that is held
        self.gate.set()
        self.at_gate = threading.Event()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.begun.append(dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer "))
        if not self.gate.is_set():
            self.at_gate.set()
            self.gate.wait(10)
        await receive()
        time.sleep(self.busy_s)
        await asyncio.sleep(self.idle_s)
        await respond(send, b"done")


@contextmanager
def serving(queue_s: float = QUEUE_S, **limits: Any) -> Iterator[tuple[Work, ThreadedServer]]:
    work = Work()
    settings = Server(**{"port": 0, "drain_s": 5.0, "queue_s": queue_s, **limits})
    with ThreadedServer(work, settings, lifespan="off", on_shed=lambda reason: work.shed.update([reason])) as server:
        yield work, server


@pytest.fixture
def served() -> Iterator[tuple[Work, ThreadedServer]]:
    with serving() as both:
        yield both


class Crowd:
    """Clients with a connection each, who ask at the same time as often as they are told to."""

    def __init__(self, server: ThreadedServer, number: int) -> None:
        self.stack = ExitStack()
        self.clients = [
            self.stack.enter_context(RawClient((server.host, server.port), timeout_s=20)) for _ in range(number)
        ]

    def ask(self, what: bytes) -> None:
        for client in self.clients:
            client.send(what)

    def answers(self) -> list[Answer]:
        return [client.answer() for client in self.clients]

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.close()


@contextmanager
def crowded(server: ThreadedServer, number: int = 150, what: bytes = request()) -> Iterator[Counter[int]]:
    """So many clients of one key, each of whom asks again at once. How they were answered is there afterwards."""
    command = [sys.executable, "-m", "kit.crowd", server.host, str(server.port), str(number), what.hex()]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    statuses: Counter[int] = Counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as crowd:
        try:
            yield statuses
        finally:
            told, _ = crowd.communicate(timeout=20)  # the end of its stdin ends it
            statuses.update(map(int, told.split()))


def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_a_shed_request_is_answered(served: tuple[Work, ThreadedServer]) -> None:
    work, server = served
    with Crowd(server, 300) as crowd:
        crowd.ask(request())
        answers = crowd.answers()
        shed = [answer for answer in answers if answer.status == 503]
        assert len(shed) == work.shed.total() > 100
        assert len(work.begun) == 300 - len(shed) >= STARTS_A_TURN
        for answer in shed:
            error = answer.json()["error"]
            assert (error["code"], error["type"], error["param"]) == (503, "overloaded", None)
            assert error["metadata"] == {"error_type": "provider_overloaded"}
            assert answer.header("retry-after") == "1"
            assert answer.header("content-type") == "application/json"
            assert answer.header("connection") is None
            assert answer.header("date")
        assert len({answer.header("x-request-id") for answer in shed}) == len(shed)
        for client in crowd.clients:  # all connections live, and nobody waits any more
            client.send(request())
            assert client.answer().status == 200


def test_a_noisy_key_waits_behind_itself() -> None:
    """Two hundred of its requests wait. Fails where all keys have one queue."""
    with (
        serving(queue_s=1.6) as (work, server),
        crowded(server, 400) as noisy,
        RawClient((server.host, server.port)) as quiet,
    ):
        until(lambda: work.shed.total() > 200)
        for _ in range(10):
            before = len(work.begun)
            quiet.send(request("quiet"))
            assert quiet.answer().status == 200
            place = work.begun.index("quiet", before)
            assert place - before < 8 * STARTS_A_TURN  # what has begun, the next turn, and what a busy machine adds
    assert noisy[200] > 0
    assert noisy[503] > 0


def test_keys_take_turns() -> None:
    """Of two crowds that come together the smaller one is through after twice its number."""
    with (
        serving(queue_s=60.0) as (work, server),
        Crowd(server, 1) as first,
        Crowd(server, 200) as many,
        Crowd(server, 30) as few,
    ):
        until(lambda: len(server.server.server_state.connections) == 231)
        work.gate.clear()
        first.ask(request("first"))
        assert work.at_gate.wait(5)
        many.ask(request("many"))
        few.ask(request("few"))
        work.gate.set()
        assert {answer.status for answer in many.answers() + few.answers()} == {200}
    last = max(place for place, key in enumerate(work.begun) if key == "few")
    assert last < 2 * 30 + 3 * STARTS_A_TURN, work.begun


def test_requests_without_a_key_are_told_apart_by_their_address(served: tuple[Work, ThreadedServer]) -> None:
    work, server = served
    anonymous = request().replace(b"Authorization: Bearer noisy\r\n", b"")
    with crowded(server, what=anonymous), RawClient((server.host, server.port)) as quiet:
        until(lambda: work.shed.total() > 200)
        quiet.send(request("quiet"))
        assert quiet.answer().status == 200


def test_nothing_is_shed_while_upstreams_are_slow() -> None:
    """Many requests under way take no time of the loop: they are no overload, and a request beside them begins at once."""
    with serving(queue_s=0.2) as (work, server):
        work.busy_s, work.idle_s = 0.0, 1.0
        with Crowd(server, 400) as crowd, RawClient((server.host, server.port)) as other:
            for number, client in enumerate(crowd.clients, 1):
                client.send(request())
                until(lambda: len(work.begun) >= number - STARTS_A_TURN)  # noqa: B023  no faster than the loop
            until(lambda: len(work.begun) == 400)
            other.send(request())
            until(lambda: len(work.begun) == 401, 0.5)
            assert {answer.status for answer in crowd.answers()} == {200}
        assert not work.shed


def test_nothing_is_shed_of_a_short_burst() -> None:
    with serving(queue_s=2.0) as (work, server), Crowd(server, 100) as crowd:
        for _ in range(3):
            crowd.ask(request())
            assert {answer.status for answer in crowd.answers()} == {200}
        assert not work.shed


def test_health_and_administration_are_answered(served: tuple[Work, ThreadedServer]) -> None:
    work, server = served
    with crowded(server), RawClient((server.host, server.port)) as operator:
        until(lambda: work.shed.total() > 200)
        for path in ("/health/live", "/health/ready", "/metrics", "/admin/api/keys"):
            operator.send(request("noisy", path))
            assert operator.answer().status == 200


def test_what_has_waited_too_long_is_shed_in_its_turn(served: tuple[Work, ThreadedServer]) -> None:
    work, server = served
    work.gate.clear()
    with Crowd(server, 1) as first, Crowd(server, 100) as crowd:
        first.ask(request())
        assert work.at_gate.wait(5)
        crowd.ask(request())  # the kernel has them
        work.busy_s = 2 * QUEUE_S / STARTS_A_TURN  # those that begin first take longer than the others may wait
        work.gate.set()
        statuses = Counter(answer.status for answer in crowd.answers())
        assert statuses[503] == work.shed["expired"] > 0
        assert statuses[200] >= STARTS_A_TURN


def test_a_client_that_leaves_while_it_waits_costs_nothing(served: tuple[Work, ThreadedServer]) -> None:
    work, server = served
    work.gate.clear()
    with Crowd(server, 30) as crowd:
        crowd.ask(request())
        assert work.at_gate.wait(5)
        crowd.ask(b"")
    work.gate.set()
    until(lambda: not server.server.server_state.connections)
    until(lambda: not server.server.server_state.tasks)
    assert server.server._front.starts.waiting == 0


def test_a_large_body_is_not_read_to_be_thrown_away(served: tuple[Work, ThreadedServer]) -> None:
    work, server = served
    with crowded(server):
        until(lambda: work.shed.total() > 200)
        for _ in range(100):  # the queue may have had room for it
            with RawClient((server.host, server.port)) as large:
                large.send(request(body=b"x" * 200_000)[:1000])  # only its beginning has come
                answer = large.answer()
                assert answer.header("connection") == "close"
                assert large.ends()
                if answer.status == 503:
                    break
        else:
            pytest.fail("it was never shed")


def test_the_log_has_two_lines_an_episode(
    served: tuple[Work, ThreadedServer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(overload, "_OVER_S", 0.3)
    work, server = served

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.getMessage().startswith("overload: ")]

    with caplog.at_level(logging.INFO, "xrouter.front"):
        for episode in (1, 2):
            with Crowd(server, 300) as crowd:
                crowd.ask(request())
                crowd.answers()
            until(lambda: len(lines()) == 2 * episode)  # noqa: B023
    shed = [int(line.split("; ")[1].split()[0]) for line in lines()[1::2]]
    assert sum(shed) == work.shed.total()


def test_who_waits_when_the_server_stops_is_answered() -> None:
    with serving(queue_s=5.0) as (work, server):
        work.busy_s = 0.01
        with Crowd(server, 200) as crowd:  # two seconds of work
            crowd.ask(request())
            until(lambda: len(work.begun) > STARTS_A_TURN)
            server.server.stop()
            answers = crowd.answers()
        assert Counter(answer.status for answer in answers) == {200: 200}
    assert server.server._front.starts.waiting == 0


def test_many_connections_are_accepted_in_one_turn(served: tuple[Work, ThreadedServer]) -> None:
    """libuv takes one a turn: what waits in the kernel would not even be told that there are too many."""
    work, server = served
    work.gate.clear()
    with Crowd(server, 1) as first, Crowd(server, 60):
        first.ask(request())
        assert work.at_gate.wait(5)
        state = server.server.server_state
        with Crowd(server, 50):  # the kernel has them; the loop stands still
            before = len(state.connections)
            turns: list[int] = []

            def count() -> None:
                turns.append(len(state.connections))
                if len(turns) < 10:
                    loop.call_soon(count)

            loop = server.server._loop
            assert loop is not None
            loop.call_soon_threadsafe(count)
            work.gate.set()
            until(lambda: len(turns) == 10)
            assert turns[-1] >= before + 50
