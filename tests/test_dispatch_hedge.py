"""Hedges: a second call beside a slow one; the first to say something wins, the other one ends and is charged to nobody."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.cancel import cancel_at_every_await
from kit.gateway import RunningGateway, running_gateway
from kit.hostile import Peer, Script, answer
from kit.money import problems
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, chat_stream, metric, open_chat, record_of, until

from xrouter.dispatch.hedge import first_of
from xrouter.errors import UpstreamTimeout

JSON = "content-type: application/json"
CONFIG = """
upstreams:
  first: {provider: openai, base_url: "${FIRST}", concurrency: 9, timeouts: {connect_s: 5, first_byte_s: 20}}
  second: {provider: openai, base_url: "${SECOND}", concurrency: 9, timeouts: {connect_s: 5, first_byte_s: 20}}
models:
  two/chat:
    price: {input: "1", output: "2"}
    balance: order
    routes: [{upstream: first, model: m}, {upstream: second, model: m}]
  one/chat: {price: free, routes: [{upstream: first, model: m}]}
filters:
  - auth: {}
  - body: {}
  - routing: {retries: 0, hedge: {after_s: 0.2}, breaker: {failures: 1000}}
  - token_count: {}
  - quota: {}
"""


# What races, by itself.


async def after(seconds: float, result: str) -> str:
    await asyncio.sleep(seconds)
    return result


async def fails(seconds: float, message: str) -> str:
    await asyncio.sleep(seconds)
    raise UpstreamTimeout(message)


class Discarded:
    def __init__(self) -> None:
        self.results: list[str] = []

    async def __call__(self, result: str) -> None:
        self.results.append(result)


async def race(first: Any, second: Any, after_s: float = 0.05) -> tuple[str, list[str]]:
    discarded = Discarded()
    try:
        result = await first_of(first, lambda: second, after_s, discarded)
    finally:
        if second is not None:
            second.close()  # for the cases where it was not wanted
    assert len(asyncio.all_tasks()) == 1, "nobody is left running"
    return result, discarded.results


async def test_a_quick_first_call_is_alone() -> None:
    assert await race(after(0, "first"), after(0, "second"), 5) == ("first", [])


async def test_the_hedge_wins() -> None:
    assert await race(after(60, "first"), after(0, "second")) == ("second", [])


async def test_the_slow_first_call_may_still_win() -> None:
    assert await race(after(0.2, "first"), after(60, "second")) == ("first", [])


async def test_a_failed_hedge_leaves_the_first_call_alone() -> None:
    assert await race(after(0.2, "first"), fails(0, "second")) == ("first", [])


async def test_a_failed_first_call_leaves_the_hedge_alone() -> None:
    assert await race(fails(0.1, "first"), after(0.3, "second")) == ("second", [])


async def test_a_first_call_that_fails_early_is_not_hedged() -> None:
    with pytest.raises(UpstreamTimeout, match="first"):
        await race(fails(0, "first"), after(0, "second"), 5)


async def test_when_both_fail_the_later_failure_is_told() -> None:
    with pytest.raises(UpstreamTimeout, match="second"):
        await race(fails(0.1, "first"), fails(0.3, "second"))


async def test_no_hedge_is_wanted() -> None:
    assert await race(after(0.1, "first"), None) == ("first", [])


async def test_two_results_in_one_turn_of_the_loop() -> None:
    both = asyncio.Event()

    async def waits(result: str) -> str:
        await both.wait()
        return result

    asyncio.get_running_loop().call_later(0.1, both.set)
    assert await race(waits("first"), waits("second"), 0.01) == ("first", ["second"])


async def test_cancelled_anywhere_nobody_is_left() -> None:
    closed: list[str] = []

    async def call(name: str) -> str:
        try:
            for _ in range(4):
                await asyncio.sleep(0)
            return name
        finally:
            closed.append(name)

    async def run() -> None:
        await first_of(call("first"), lambda: call("second"), 0, Discarded())

    async def check() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    await cancel_at_every_await(run, check)


# Through the gateway.


@pytest.fixture(scope="module")
def first() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def second() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture
def gateway(first: Scripted, second: Scripted, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(CONFIG, {"FIRST": first.url, "SECOND": second.url}, tmp_path) as gateway:
        yield gateway
    assert asyncio.run(problems(gateway.store)) == ()


def says(text: str) -> Script:
    choice = f'"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":%s}}]'
    usage = '"usage":{"prompt_tokens":2,"completion_tokens":1}'
    events = (f'{{"id":"u","model":"m",{choice % end}}}' for end in ("null", '"stop"'))
    stream = "".join(f"data: {event}\n\n" for event in (*events, f'{{"id":"u","model":"m","choices":[],{usage}}}'))
    message = f'{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}'

    async def script(peer: Peer) -> None:
        while True:
            if b'"stream":true' in await peer.request():
                peer.send(answer(f"{stream}data: [DONE]\n\n".encode(), "content-type: text/event-stream"))
            else:
                peer.send(answer(f'{{"id":"u","model":"m","choices":[{message}],{usage}}}'.encode(), JSON))
            await peer.drain()

    return script


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.left()


def failing(status: str, after_s: float = 0) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(after_s)
        peer.send(answer(b'{"error": {"message": "no"}}', JSON, status=status))
        await peer.drain()

    return script


def balance(gateway: RunningGateway) -> int:
    """Nanocredits of the key's account that are neither spent nor held."""
    with contextlib.closing(sqlite3.connect(gateway.store.removeprefix("sqlite:///"))) as connection:
        sql = "SELECT sum(balance_nano - held_nano) FROM accounts WHERE name = 'tests'"
        return int(connection.execute(sql).fetchone()[0])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_next_target_answers_for_a_silent_one(
    first: Scripted, second: Scripted, gateway: RunningGateway, stream: bool
) -> None:
    """Fails (by its time-out) if the hedge is begun only after the first has failed."""
    first.set(silent)
    second.set(says("Lima"))
    before = balance(gateway)
    reply = chat(gateway, "two/chat", "Peru?", stream=stream)
    assert reply.status_code == 200
    assert reply.headers["x-xrouter-upstream"] == "second"
    assert "Lima" in reply.text
    record = record_of(gateway, reply)
    assert record["upstream"] == "second"
    assert [
        (attempt["upstream"], attempt["status"], attempt.get("error"), attempt.get("reason"))
        for attempt in record["attempts"]
    ] == [("first", 0, "cancelled", None), ("second", 200, None, "hedge")]
    until(lambda: first.open == 0, timeout_s=10)
    assert metric(gateway, "xrouter_upstream_calls", upstream="first", state="active") == 0
    until(lambda: before - balance(gateway) == 4 * 10**6, timeout_s=10)  # two tokens in, one out: once
    assert metric(gateway, "xrouter_retries_total", upstream="second", result="made") == 1


def test_a_quick_answer_is_not_hedged(first: Scripted, second: Scripted, gateway: RunningGateway) -> None:
    first.set(says("Lima"))
    second.set(says("Quito"))
    stream = chat_stream(gateway, "two/chat", "Peru?")
    assert stream.headers["x-xrouter-upstream"] == "first"
    assert second.requests == []


def test_one_that_fails_while_two_race(first: Scripted, second: Scripted, gateway: RunningGateway) -> None:
    first.set(failing("500 No", after_s=0.6))
    second.set(says("Lima"))
    assert chat(gateway, "two/chat", "Peru?").headers["x-xrouter-upstream"] == "second"
    first.set(says("Lima"))
    second.set(failing("500 No"))
    assert chat(gateway, "two/chat", "Peru?").headers["x-xrouter-upstream"] == "first"


def test_both_fail(first: Scripted, second: Scripted, gateway: RunningGateway) -> None:
    first.set(failing("500 No", after_s=0.6))
    second.set(failing("503 No"))
    before = balance(gateway)
    reply = chat(gateway, "two/chat", "Peru?")
    assert reply.status_code in (502, 503)
    assert {attempt["upstream"] for attempt in record_of(gateway, reply)["attempts"]} == {"first", "second"}
    until(lambda: balance(gateway) == before, timeout_s=10)


def test_without_another_target_there_is_no_hedge(first: Scripted, gateway: RunningGateway) -> None:
    first.set(failing("500 No", after_s=0.5))
    reply = chat(gateway, "one/chat", "Peru?")
    assert len(record_of(gateway, reply)["attempts"]) == 1


def test_hedges_are_of_the_retry_budget(first: Scripted, second: Scripted, tmp_path: Path) -> None:
    """Fails if a hedge asks no budget: ten of them."""
    first.set(failing("500 No", after_s=0.4))
    second.set(says("Lima"))
    config = CONFIG.replace("after_s: 0.2}", "after_s: 0.2}, retry_budget: {ratio: 0, min_per_s: 0}")
    with running_gateway(config, {"FIRST": first.url, "SECOND": second.url}, tmp_path) as running:
        reasons = [
            record_of(running, chat(running, "two/chat", "Peru?"))["attempts"][-1].get("reason") for _ in range(5)
        ]
    assert reasons == ["hedge"] * 3 + ["fallback"] * 2


def test_a_client_that_leaves_ends_both(first: Scripted, second: Scripted, gateway: RunningGateway) -> None:
    first.set(silent)
    second.set(silent)
    before = balance(gateway)
    with contextlib.suppress(Exception), open_chat(gateway, "two/chat", "Peru?", timeout_s=1):
        raise AssertionError("nobody answers")
    until(lambda: len(first.requests) == len(second.requests) == 1, timeout_s=10)
    until(lambda: first.open == second.open == 0, timeout_s=10)
    for name in ("first", "second"):
        assert metric(gateway, "xrouter_upstream_calls", upstream=name, state="active") == 0
    until(lambda: balance(gateway) == before, timeout_s=10)


def test_a_percentile_of_what_is_known(first: Scripted, second: Scripted, tmp_path: Path) -> None:
    first.set(says("Lima"))
    second.set(says("Quito"))
    config = CONFIG.replace("after_s: 0.2", "percentile: p99")
    with running_gateway(config, {"FIRST": first.url, "SECOND": second.url}, tmp_path) as running:
        assert chat(running, "two/chat", "?").status_code == 200
        until(lambda: running.app.health.latency_s(("first", "m")) is not None, timeout_s=10)
        first.set(silent)
        # What was known at the first call, nothing, holds for five seconds: a new configuration looks again.
        running.call(running.app.reload(running.app.settings))
        assert chat(running, "two/chat", "?").headers["x-xrouter-upstream"] == "second"
