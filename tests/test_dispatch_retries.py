"""The retry budget: what keeps retries from becoming the storm (fault matrix F04), by itself and through the gateway."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.hostile import Peer, Script, answer, answering
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, metric, record_of, until, user

from xrouter.retries import RetryBudget, RetryBudgetSettings
from xrouter.world import RealWorld

JSON = "content-type: application/json"
CONFIG = """
upstreams:
  first: {provider: openai, base_url: "${FIRST}", concurrency: 500}
  second: {provider: openai, base_url: "${SECOND}", concurrency: 500}
  narrow: {provider: openai, base_url: "${FIRST}", concurrency: 1, queue_s: 0.5}
models:
  narrow/chat: {price: free, routes: [{upstream: narrow, model: m}]}
  narrow/first: {price: free, routes: [{upstream: narrow, model: m}, {upstream: second, model: m}]}
  one/chat: {price: free, routes: [{upstream: first, model: m}]}
  two/chat: {price: free, balance: order, routes: [{upstream: first, model: m}, {upstream: second, model: m}]}
"""
STORM = 200
GOOD = answer(
    b'{"id":"up","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Lima"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":2,"completion_tokens":1}}',
    JSON,
)


class Still(RealWorld):
    """Time passes as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 100.0
        self.monotonic = lambda: self.at


def budget(ratio: float, min_per_s: float) -> tuple[RetryBudget, Still]:
    world = Still()
    made = RetryBudget(world)
    made.configure(RetryBudgetSettings(ratio, min_per_s))
    return made, world


@given(st.floats(0, 1), st.floats(0, 20), st.lists(st.tuples(st.booleans(), st.floats(0, 0.5)), max_size=300))
def test_no_more_than_its_sources(ratio: float, min_per_s: float, steps: list[tuple[bool, float]]) -> None:
    """Whatever comes when. At a steady rate it is the greater of the two and not their sum: see the next test."""
    retries, world = budget(ratio, min_per_s)
    requests = taken = 0
    began = world.at
    for asks, seconds in steps:
        world.at += seconds
        if asks:
            requests += 1
            retries.earn()
        taken += retries.take()
    assert taken == retries.made
    assert taken + retries.refused == len(steps)
    assert taken <= ratio * requests + min_per_s * (world.at - began) + 4


def test_a_storm_at_a_steady_rate_stays_below_a_fifth() -> None:
    """Fails if the floor looks at its own retries only, and so becomes a source beside the ratio."""
    retries, world = budget(0.2, 1)
    taken = 0
    for _ in range(1000):
        world.at += 0.01
        retries.earn()
        taken += retries.take()
    assert 200 <= taken <= 203


def test_a_few_requests_have_their_retries() -> None:
    retries, world = budget(0.2, 4)
    for _ in range(20):
        retries.earn()
        for _ in range(2):
            world.at += 0.25
            assert retries.take()


@pytest.mark.parametrize(("ratio", "min_per_s"), [(-0.1, 1), (11, 1), (0.2, -1), (0.2, 1001)])
def test_settings_that_make_no_sense(ratio: float, min_per_s: float) -> None:
    with pytest.raises(ValueError, match="has to be between"):
        RetryBudgetSettings(ratio, min_per_s)


@pytest.fixture(scope="module")
def first() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def second() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


def gateway(first: Scripted, second: Scripted, folder: Path, routing: str) -> Iterator[RunningGateway]:
    config = CONFIG + CHAIN.replace("{retries: 2, fallback: true}", routing)
    with running_gateway(config, {"FIRST": first.url, "SECOND": second.url}, folder) as running:
        yield running


@pytest.fixture
def strict(first: Scripted, second: Scripted, tmp_path: Path) -> Iterator[RunningGateway]:
    """As configured by default, but for the floor, so that the row's figure does not depend on how long the storm takes."""
    routing = "{retries: 2, retry_budget: {min_per_s: 0}, breaker: {failures: 5, open_s: 60}}"
    yield from gateway(first, second, tmp_path, routing)


def failing(status: str, *headers: str) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.send(answer(b'{"error": {"message": "no"}}', JSON, *headers, status=status))
            await peer.drain()

    return script


def storm(gateway: RunningGateway, model: str) -> list[int]:
    """The statuses of `STORM` requests, some at a time."""
    with (
        httpx2.Client(base_url=gateway.url, headers=gateway.auth, timeout=60) as client,
        ThreadPoolExecutor(16) as clients,
    ):
        body = {"model": model, "messages": user("Peru?")}
        return list(
            clients.map(lambda _: client.post("/v1/chat/completions", json=body).status_code, range(STORM))
        )  # fmt: skip


@pytest.mark.parametrize("status", ["503 No", "429 No"])
def test_f04_a_storm_is_not_multiplied(first: Scripted, strict: RunningGateway, status: str) -> None:
    """Three rounds for each would be 600 calls. Fails if `RetryBudget.take` always allows."""
    first.set(failing(status))
    assert set(storm(strict, "one/chat")) == {int(status[:3])}
    assert STORM <= len(first.requests) <= 1.2 * STORM + 3
    made = metric(strict, "xrouter_retries_total", upstream="first", result="made")
    assert made == len(first.requests) - STORM
    assert metric(strict, "xrouter_retries_total", upstream="first", result="over_budget") > 0


def test_f04_a_fallback_to_one_that_is_left_alone_is_a_retry(
    first: Scripted, second: Scripted, strict: RunningGateway
) -> None:
    """Both fail and are left alone: one call a request and a fifth, not one at each. Fails if `_may_try` lets all through.

    The requests that are under way before the two are left alone, 16 at most, may have called both.
    """
    for upstream in (first, second):
        upstream.set(failing("503 No"))
    assert set(storm(strict, "two/chat")) == {503}
    assert len(first.requests) + len(second.requests) <= 1.2 * STORM + 2 * 3 + 16 + 5


def test_a_retry_over_budget_is_an_error_at_once(first: Scripted, strict: RunningGateway) -> None:
    first.set(failing("503 No"))
    for _ in range(4):
        chat(strict, "one/chat", "Peru?")
    calls = len(first.requests)
    last = chat(strict, "one/chat", "Peru?")
    assert last.status_code == 503
    assert len(first.requests) == calls + 1
    assert [attempt.get("reason", "first") for attempt in record_of(strict, last)["attempts"]] == ["first"]


def test_retries_say_so(first: Scripted, second: Scripted, tmp_path: Path) -> None:
    first.set(failing("503 No"))
    second.set(failing("503 No"))
    for running in gateway(first, second, tmp_path, "{retries: 1}"):
        reply = chat(running, "two/chat", "Peru?")
        attempts = record_of(running, reply)["attempts"]
        assert [(attempt["upstream"], attempt.get("reason", "first")) for attempt in attempts] == [
            ("first", "first"), ("second", "fallback"), ("first", "retry"), ("second", "retry"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "as_status", "asked"), [("404 No", 200, 1), ("403 No", 200, 1), ("400 No", 400, 0), ("413 No", 400, 0)]
)
def test_what_the_client_has_no_part_in_is_tried_elsewhere(
    first: Scripted, second: Scripted, tmp_path: Path, status: str, as_status: int, asked: int
) -> None:
    """A model that one upstream has no more is served by the other one. Fails where an upstream's 404 is the client's."""
    first.set(failing(status))
    second.set(answering(GOOD))
    for running in gateway(first, second, tmp_path, "{retries: 1}"):
        reply = chat(running, "two/chat", "Peru?")
        assert (reply.status_code, len(first.requests), len(second.requests)) == (as_status, 1, asked)
    first.set(failing(status))
    second.set(failing(status))
    for running in gateway(first, second, tmp_path, "{retries: 1}"):
        error = chat(running, "two/chat", "Peru?").json()["error"]
        assert error["code"] == (int(status[:3]) if asked else 400)
        assert error["metadata"]["provider_name"] == ("second" if asked else "first")
        assert len(first.requests) == 1, "a second try would be no better"


def test_who_found_no_place_in_time_does_not_queue_again(first: Scripted, second: Scripted, tmp_path: Path) -> None:
    """It goes on to another upstream, or is told. Fails if that 429 is one to retry: three waits and the pauses between."""
    answered = threading.Event()

    async def held(peer: Peer) -> None:
        await peer.request()
        await asyncio.to_thread(answered.wait, 30)
        peer.send(GOOD)
        await peer.drain()

    first.set(held)
    second.set(answering(GOOD))
    with ThreadPoolExecutor(1) as client:
        for running in gateway(first, second, tmp_path, "{retries: 2}"):
            holder = client.submit(chat, running, "narrow/chat", "Peru?")
            until(lambda: len(first.requests) == 1, timeout_s=20)
            reply = chat(running, "narrow/chat", "Peru?")
            assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
            (attempt,) = record_of(running, reply)["attempts"]
            assert (attempt["status"], attempt["error"]) == (0, "rate_limit_exceeded")
            assert chat(running, "narrow/first", "Peru?").headers["x-xrouter-upstream"] == "second"
            answered.set()
            assert holder.result(30).status_code == 200
