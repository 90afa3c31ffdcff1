"""Two gateway processes that share a Redis: rows F09 and F10 of the fault matrix, and the storm, as clients see them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from kit.gateway import new_key
from kit.redis_server import RedisServer

from xrouter.sandbox.running import Sandbox, running_sandbox

YAML = """
store: sqlite:///{folder}/gateway.db
redis: {redis}
upstreams:
  local: {{provider: openai, base_url: {upstream}, api_key: {key}, concurrency: 200}}
models:
  local/large: {{price: free, routes: [{{upstream: local, model: sandbox-large}}]}}
tiers:
  requests: {{requests: [30/minute, 1000/day]}}
  tokens: {{requests: [1000/minute], tokens: [9000/minute]}}
  slots: {{concurrency: 4}}
filters:
  - auth
  - rate_limit: {{on_store_failure: {policy}}}
  - body
  - routing
  - token_count
"""
BODY = {"model": "local/large", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}


@dataclass
class Pair:
    urls: list[str]
    processes: list[subprocess.Popen[str]]
    store: str
    redis: RedisServer

    def key(self, tier: str) -> dict[str, str]:
        return {"Authorization": "Bearer " + new_key(self.store, tier=tier)}

    def storm(self, headers: dict[str, str], requests: int, **body: Any) -> list[httpx2.Response]:
        """All at once, over both gateways in turn."""

        async def ask(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
            url = self.urls[number % len(self.urls)] + "/v1/chat/completions"
            return await client.post(url, json={**BODY, **body}, headers=headers)

        async def all_of_them() -> list[httpx2.Response]:
            limits = httpx2.Limits(max_connections=40)
            async with httpx2.AsyncClient(timeout=60, limits=limits) as client:
                return await asyncio.gather(*(ask(client, number) for number in range(requests)))

        return asyncio.run(all_of_them())

    def metric(self, name: str, at: int = 0) -> float:
        text = httpx2.get(self.urls[at] + "/metrics").text
        return float(next(line for line in text.splitlines() if line.startswith(name + " ")).split()[1])


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@contextmanager
def running_pair(folder: Path, sandbox: Sandbox, redis: RedisServer, policy: str = "local_share") -> Iterator[Pair]:
    config = folder / "xrouter.yaml"
    environ = sandbox.environ
    config.write_text(
        YAML.format(
            folder=folder,
            redis=redis.url,
            policy=policy,
            upstream=environ["LOCAL_BASE_URL"],
            key=environ["LOCAL_API_KEY"],
        )
    )
    store = f"sqlite:///{folder}/gateway.db"
    new_key(store)  # makes the database
    command = [sys.executable, "-m", "xrouter.cli", "serve", "-c", str(config), "--port", "0", "--json"]
    processes = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for _ in range(2)
    ]
    try:
        urls = []
        for process in processes:
            assert process.stdout is not None
            urls.append(json.loads(process.stdout.readline())["url"])
        yield Pair(urls, processes, store, redis)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(timeout=30)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def pair(tmp_path: Path, sandbox: Sandbox, redis: RedisServer) -> Iterator[Pair]:
    with running_pair(tmp_path, sandbox, redis) as found:
        yield found


@contextmanager
def slow(sandbox: Sandbox, seconds: float) -> Iterator[None]:
    sandbox.state.choose(f"latency={seconds}", times=1000, provider="openai")
    yield
    sandbox.state.reset()


def statuses(responses: list[httpx2.Response]) -> Counter[int]:
    return Counter(response.status_code for response in responses)


def test_two_gateways_admit_exactly_what_the_tier_allows(pair: Pair) -> None:
    responses = pair.storm(pair.key("requests"), 120)
    assert statuses(responses) == {200: 30, 429: 90}
    refused = next(response for response in responses if response.status_code == 429)
    assert refused.json()["error"]["metadata"]["limit"] == "requests.requests.30/minute"
    assert 50 <= int(refused.headers["retry-after"]) <= 60
    remaining = sorted(int(r.headers["x-ratelimit-remaining"]) for r in responses if r.status_code == 200)
    assert remaining == list(range(30))


def test_two_gateways_admit_exactly_the_tokens_of_the_tier(pair: Pair, sandbox: Sandbox) -> None:
    """Each reserves 1500 of 9000: the answers take a while, so no correction comes in between."""
    headers = pair.key("tokens")
    with slow(sandbox, 2):
        responses = pair.storm(headers, 40, max_tokens=1491)
    assert statuses(responses) == {200: 6, 429: 34}
    after = pair.storm(headers, 1)[0]
    assert int(after.headers["x-ratelimit-remaining-tokens"]) > 7000, "the reserved tokens were not given back"


def until(condition: Any, within_s: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + within_s, "it did not come to that in time"
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_storm_of_aborts_gives_every_place_back(pair: Pair, sandbox: Sandbox) -> None:
    """Fails if a cancelled request keeps its lease: then the tier's four places are gone for its length."""
    headers = pair.key("slots")

    async def ask_and_leave(client: httpx2.AsyncClient, number: int) -> None:
        url = pair.urls[number % 2] + "/v1/chat/completions"
        try:
            async with asyncio.timeout(0.01 * (number % 20)):
                await client.post(url, json=BODY, headers=headers)
        except TimeoutError:
            return

    async def storm() -> None:
        async with httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=100)) as client:
            await asyncio.gather(*(ask_and_leave(client, number) for number in range(200)))

    with slow(sandbox, 0.2):
        asyncio.run(storm())
    until(lambda: pair.redis.client().zcard(next(iter(pair.redis.client().keys("xrl:*concurrency*")), "none")) == 0, 5)
    with slow(sandbox, 1):
        assert statuses(pair.storm(headers, 10)) == {200: 4, 429: 6}


def test_f09_redis_killed_under_load(pair: Pair) -> None:
    """Neither a 429 for the outage nor an open gate: each process admits its share, and both count together again after.

    Fails with `on_store_failure: allow` (all are admitted) and without the breaker (the gauge stays 0).
    """
    headers = pair.key("requests")
    assert statuses(pair.storm(headers, 10)) == {200: 10}
    pair.redis.kill()
    began = time.monotonic()
    during = pair.storm(headers, 100)
    assert set(statuses(during)) == {200, 429}
    assert statuses(during)[200] <= 60 - 10
    assert pair.metric("xrouter_ratelimit_degraded") == 1
    assert time.monotonic() - began < 10
    pair.redis.start()
    until(lambda: pair.metric("xrouter_ratelimit_degraded") + pair.metric("xrouter_ratelimit_degraded", 1) == 0, 5)
    assert statuses(pair.storm(pair.key("requests"), 60)) == {200: 30, 429: 30}


def test_f10_redis_frozen_under_load(pair: Pair) -> None:
    """Fails with redis-py's own retries: every request then waits for seconds."""
    headers = pair.key("requests")
    assert statuses(pair.storm(headers, 10)) == {200: 10}
    pair.redis.freeze()
    during = pair.storm(headers, 40)
    assert set(statuses(during)) <= {200, 429}
    until(lambda: pair.metric("xrouter_ratelimit_degraded") == 1, 3)
    times = sorted(response.elapsed.total_seconds() for response in pair.storm(pair.key("requests"), 20))
    assert times[10] < 1
    pair.redis.thaw()
    until(lambda: pair.metric("xrouter_ratelimit_degraded") + pair.metric("xrouter_ratelimit_degraded", 1) == 0, 6)
    assert statuses(pair.storm(pair.key("requests"), 60)) == {200: 30, 429: 30}


def test_deny_answers_503_while_redis_is_away(tmp_path: Path, sandbox: Sandbox, redis: RedisServer) -> None:
    with running_pair(tmp_path, sandbox, redis, "deny") as pair:
        headers = pair.key("requests")
        assert statuses(pair.storm(headers, 4)) == {200: 4}
        redis.kill()
        answers = pair.storm(headers, 20)
        assert statuses(answers) == {503: 20}
        assert answers[0].json()["error"]["type"] == "store_unavailable"
        assert answers[0].headers["retry-after"] == "1"
        redis.start()
        until(lambda: statuses(pair.storm(headers, 2)) == {200: 2}, 5)
