"""An upstream that fails, slows or refuses is left within seconds and returned to by itself (fault matrix F04, F05).

Real sockets: a gateway, and upstreams that can be told what to answer.
"""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from kit.gateway import CREDITS, RunningGateway, running_gateway
from kit.hostile import Peer, Script, answer, answering
from kit.redis_server import free_port
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, metric, until

from xrouter.ledger.proof import prove
from xrouter.store.accounts import Accounts
from xrouter.surfaces.base import NANO

JSON = "content-type: application/json"
CLIENTS = 4
WHOLE = (
    b'{"id":"up","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Lima"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}'
)
GOOD = answering(answer(WHOLE, JSON))
BAD = answering(answer(b'{"error": {"message": "no"}}', JSON, status="500 No"))
STORM = answering(answer(b'{"error": {"message": "no"}}', JSON, "retry-after: 60", status="429 No"))


@dataclass(frozen=True)
class Site:
    gateway: RunningGateway
    upstreams: dict[str, Scripted]

    def script(self, **scripts: Script) -> None:
        for name, script in scripts.items():
            self.upstreams[name].set(script)

    def attempts(self, name: str) -> int:
        return len(self.upstreams[name].requests)

    def all_attempts(self) -> int:
        return sum(self.attempts(name) for name in self.upstreams)

    def ask(self, times: int) -> list[httpx2.Response]:
        """As many requests, four at a time."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(lambda _: chat(self.gateway, "a/chat", "Peru?", max_tokens=5), range(times)))

    def served_by(self, times: int) -> set[str]:
        return {reply.headers.get("x-xrouter-upstream", str(reply.status_code)) for reply in self.ask(times)}

    def ejected(self, name: str) -> bool:
        return metric(self.gateway, "xrouter_upstream_ejected", upstream=name, model="m") == 1

    def charged_nano(self) -> int:
        """What the account has paid; the ledger's own proof on the way."""
        engine = self.gateway.app._engine
        assert engine is not None
        until(lambda: self.gateway.call(prove(engine)).holds_open == 0, timeout_s=20)
        assert not self.gateway.call(prove(engine)).problems
        account = self.gateway.call(Accounts(engine).view("tests"))
        return int(CREDITS * NANO - account.balance_nano)


@contextmanager
def site(folder: Path, routing: str, *names: str, balance: str = "order") -> Iterator[Site]:
    """A model with a route to each of `names`, the first one first."""
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(scripted_upstream()) for name in names}
        timeouts = "timeouts: {connect_s: 5, first_byte_s: 5, idle_s: 5, total_s: 5}"
        lines = ["upstreams:"]
        lines += [
            f'  {name}: {{provider: openai, base_url: "{one.url}", {timeouts}}}' for name, one in upstreams.items()
        ]
        routes = ", ".join(f"{{upstream: {name}, model: m}}" for name in names)
        price = 'price: {input: "1", output: "1"}'
        lines += ["models:", f"  a/chat: {{{price}, balance: {balance}, routes: [{routes}]}}", "filters:"]
        lines += ["  - auth: {}", "  - body: {}", f"  - routing: {routing}", "  - token_count: {}", "  - quota: {}"]
        gateway = stack.enter_context(running_gateway("\n".join(lines), {}, folder))
        yield Site(gateway, upstreams)


def test_f04_a_storm_of_429_at_one_upstream_costs_the_clients_nothing(tmp_path: Path) -> None:
    """Fails when a 429 with Retry-After is a failure like any other: three requests in four reach the stormy one again,
    and where `failures` is high, all do."""
    with site(tmp_path, "{retries: 2, breaker: {failures: 1000}, outlier: null}", "first", "second") as one:
        one.script(first=STORM, second=GOOD)
        assert one.served_by(60) == {"second"}
        assert one.ejected("first")
        assert one.attempts("first") <= CLIENTS, "only those that were under way when it said so"
        assert one.all_attempts() <= 1.2 * 60 + 3
        assert metric(one.gateway, "xrouter_upstream_ejections_total", upstream="first", reason="retry_after") == 1
        health = one.gateway.client.get("/health").json()["components"]["upstream:first"]
        assert health["models_left_alone"] == ["m"]


def test_f04_a_storm_of_429_at_all_of_them_is_told_and_not_made_worse(tmp_path: Path) -> None:
    """Fails when what is left alone may be fallen back to for nothing: then each request costs an attempt at every one.

    The budget's floor is a rate, and would make the bound one of the machine's speed: it is 0 here.
    """
    with site(tmp_path, "{retries: 2, retry_budget: {ratio: 0.2, min_per_s: 0}}", "first", "second", "third") as one:
        one.script(first=STORM, second=STORM, third=STORM)
        replies = one.ask(60)
        assert {reply.status_code for reply in replies} == {429}
        assert all(0 < int(reply.headers["retry-after"]) <= 60 for reply in replies)
        assert one.all_attempts() <= 1.2 * 60 + 3 * len(one.upstreams), "a retry budget is each upstream's own"
        assert one.charged_nano() == 0


def test_f04_it_is_returned_to_when_its_time_is_over(tmp_path: Path) -> None:
    """Fails when the ejection has no end, and when it ends before the second that was asked for."""
    brief = answering(answer(b"{}", JSON, "retry-after: 1", status="429 No"))
    with site(tmp_path, "{retries: 0}", "first", "second") as one:
        one.script(first=brief, second=GOOD)
        assert one.served_by(1) == {"second"}
        one.script(first=GOOD)
        assert until(lambda: one.served_by(1) == {"first"}, timeout_s=20) > 0.7
        assert not one.ejected("first")
        assert one.served_by(10) == {"first"}


def test_f05_one_of_three_fails_and_no_client_sees_it(tmp_path: Path) -> None:
    """With fallback, clients see nothing at all, and after five failures in a row the bad one is not asked any more.

    Fails without the breaker: a third of the requests goes on reaching it first.
    """
    with site(tmp_path, "{retries: 0, breaker: {open_s: 60}}", "bad", "good", "fine", balance="weighted") as one:
        one.script(bad=BAD, good=GOOD, fine=GOOD)
        assert one.served_by(80) <= {"good", "fine"}
        assert one.ejected("bad")
        assert 5 <= one.attempts("bad") < 5 + CLIENTS
        before = one.attempts("bad")
        assert one.served_by(40) == {"good", "fine"}
        assert one.attempts("bad") == before


def test_f05_without_fallback_only_the_first_failures_reach_clients(tmp_path: Path) -> None:
    """What the row's goal is about: 1 of 3 bad, and 0 client errors once it is found out. Fails without the breaker."""
    routing = "{retries: 0, fallback: false, breaker: {open_s: 60}}"
    with site(tmp_path, routing, "bad", "good", "fine", balance="weighted") as one:
        one.script(bad=BAD, good=GOOD, fine=GOOD)
        until(lambda: one.ask(10) is not None and one.ejected("bad"), timeout_s=30)
        assert one.attempts("bad") < 5 + CLIENTS
        assert one.served_by(40) == {"good", "fine"}


@pytest.mark.parametrize("panic", [0.5, 1])
def test_f05_all_fail_and_none_is_given_up(tmp_path: Path, panic: float) -> None:
    """The clients are told, nothing is charged, and the first request after it is over is served. Without panic too.

    Fails when an ejected target is left out instead of put last: nothing is tried until `open_s` is over.
    """
    with site(tmp_path, f"{{retries: 0, panic: {panic}, breaker: {{open_s: 60}}}}", "first", "second") as one:
        one.script(first=BAD, second=BAD)
        assert {reply.status_code for reply in one.ask(30)} == {502}
        assert one.ejected("first")
        assert one.ejected("second")
        assert one.charged_nano() == 0
        one.script(first=GOOD, second=GOOD)
        assert one.served_by(1) == {"first"}
        assert not one.ejected("first")
        assert one.charged_nano() > 0


def test_f05_it_is_returned_to_by_itself_through_one_probe(tmp_path: Path) -> None:
    """Fails when a place that is half open takes every request: all of them then wait for what may still be down."""
    answered = threading.Event()

    async def held(peer: Peer) -> None:
        while True:
            await peer.request()
            while not answered.is_set():
                await asyncio.sleep(0.01)
            peer.send(answer(WHOLE, JSON))
            await peer.drain()

    with site(tmp_path, "{retries: 0, breaker: {failures: 2, open_s: 2}}", "first", "second") as one:
        one.script(first=BAD, second=GOOD)
        one.ask(12)
        assert one.ejected("first")
        one.script(first=held)
        with ThreadPoolExecutor(1) as pool:
            probe = pool.submit(until, lambda: one.served_by(1) == {"first"}, timeout_s=30)
            until(lambda: one.attempts("first") == 1, timeout_s=30)
            assert one.served_by(8) == {"second"}
            assert one.attempts("first") <= 2, "another probe after two seconds at the earliest"
            answered.set()
            probe.result(60)
        assert not one.ejected("first")
        assert one.served_by(8) == {"first"}


def test_one_that_slows_is_left_and_returned_to(tmp_path: Path) -> None:
    """It answers, but its first byte comes late. Fails without `slow_s`: its answers are good ones."""
    quick = threading.Event()

    async def slow(peer: Peer) -> None:
        while True:
            await peer.request()
            if not quick.is_set():
                await asyncio.sleep(0.6)
            peer.send(answer(WHOLE, JSON))
            await peer.drain()

    routing = "{retries: 0, breaker: {failures: 3, slow_s: 0.5, open_s: 1}}"
    with site(tmp_path, routing, "first", "second") as one:
        one.script(first=slow, second=GOOD)
        until(lambda: one.ask(2) is not None and one.ejected("first"), timeout_s=30)
        assert metric(one.gateway, "xrouter_upstream_ejections_total", upstream="first", reason="slow") == 1
        quick.set()
        until(lambda: one.served_by(1) == {"first"}, timeout_s=30)


def test_one_that_refuses_is_left_and_returned_to(tmp_path: Path) -> None:
    """Nobody listens at its port, then somebody does. Fails without the breaker: every request tries it first."""
    port = free_port()
    with scripted_upstream() as second:
        second.set(GOOD)
        config = f"""
upstreams:
  first: {{provider: openai, base_url: "http://127.0.0.1:{port}/v1"}}
  second: {{provider: openai, base_url: "{second.url}"}}
models:
  a/chat: {{price: free, routes: [{{upstream: first, model: m}}, {{upstream: second, model: m}}]}}
filters: [{{auth: {{}}}}, {{body: {{}}}}, {{routing: {{retries: 0, breaker: {{open_s: 1}}}}}}]
"""
        with running_gateway(config, {}, tmp_path) as gateway:
            one = Site(gateway, {"second": second})
            assert one.served_by(20) == {"second"}
            assert one.ejected("first")
            refusals = metric(gateway, "xrouter_upstream_errors_total", upstream="first", kind="connect")
            assert 5 <= refusals < 5 + CLIENTS
            with listening(port):
                until(lambda: one.served_by(1) == {"first"}, timeout_s=30)
                assert one.served_by(8) == {"first"}


@contextmanager
def listening(port: int) -> Iterator[None]:
    """A good upstream at `port`."""
    with scripted_upstream(port=port) as upstream:
        upstream.set(GOOD)
        yield
