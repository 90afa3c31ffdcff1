"""Two gateway processes that share a Redis: rows F09 and F10 of the fault matrix, and the storm, as clients see them."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from kit.gateway import new_key
from kit.redis_server import RedisServer
from sentinels import Sentinels

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
  hour: {{requests: [400/hour]}}
  upstream: {{}}
filters:
  - auth
  - rate_limit:
      on_store_failure: {policy}
      gateways: {gateways}
      limits: [{{per: upstream, concurrency: 3, tiers: [upstream]}}]
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

    def ask(self, headers: dict[str, str]) -> httpx2.Response:
        """One request, at the first gateway."""
        return httpx2.post(self.urls[0] + "/v1/chat/completions", json=BODY, headers=headers, timeout=60)

    def admits(self, headers: dict[str, str], requests: int, exactly: int, **body: Any) -> list[httpx2.Response]:
        """So many of a storm's requests get through, the others are told 429. On a busy machine a call of Redis may miss its
        50 ms; then the process' share decides: it may admit one more, and Redis may come to count it twice.
        """
        before = self.store_errors()
        responses = self.storm(headers, requests, **body)
        admitted = statuses(responses)[200]
        assert abs(admitted - exactly) <= self.store_errors() - before
        assert statuses(responses)[429] == requests - admitted
        return responses

    def store_errors(self) -> int:
        return int(sum(self.metric("xrouter_ratelimit_store_errors_total", at) for at in (0, 1)))

    def metric(self, name: str, at: int = 0) -> float:
        text = httpx2.get(self.urls[at] + "/metrics").text
        return float(next(line for line in text.splitlines() if line.startswith(name + " ")).split()[1])


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@contextmanager
def running_pair(
    folder: Path,
    sandbox: Sandbox,
    redis: RedisServer,
    policy: str = "local_share",
    url: str | None = None,
    gateways: int = 1,
) -> Iterator[Pair]:
    config = folder / "xrouter.yaml"
    environ = sandbox.environ
    config.write_text(
        YAML.format(
            folder=folder,
            redis=url or redis.url,
            policy=policy,
            gateways=gateways,
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
    responses = pair.admits(pair.key("requests"), 120, 30)
    refused = next(response for response in responses if response.status_code == 429)
    assert refused.json()["error"]["metadata"]["limit"] == "requests.requests.30/minute"
    assert 50 <= int(refused.headers["retry-after"]) <= 60
    remaining = sorted(int(r.headers["x-ratelimit-remaining"]) for r in responses if r.status_code == 200)
    assert remaining == list(range(30)) or pair.store_errors()


def test_two_gateways_admit_exactly_the_tokens_of_the_tier(pair: Pair, sandbox: Sandbox) -> None:
    """Each reserves 1500 of 9000: the answers take a while, so no correction comes in between."""
    headers = pair.key("tokens")
    with slow(sandbox, 2):
        pair.admits(headers, 40, 6, max_tokens=1491)
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
        pair.admits(headers, 10, 4)


def test_two_gateways_keep_to_an_upstream_s_places(pair: Pair, sandbox: Sandbox) -> None:
    """Whoever asks: an upstream's own `concurrency` is each process'."""
    keys = [pair.key("upstream") for _ in range(2)]
    with slow(sandbox, 2), ThreadPoolExecutor(2) as accounts:
        storms = list(accounts.map(lambda headers: pair.storm(headers, 5), keys))
        assert sandbox.state.in_flight["openai"].peak == 3
    assert sum(map(statuses, storms), Counter()) == {200: 3, 429: 7}


def test_a_killed_gateway_keeps_its_places_for_their_lease_at_most(pair: Pair, sandbox: Sandbox) -> None:
    """A stream may take minutes; who holds a place renews its lease of 15 s. Fails if the leases have no end."""
    headers = pair.key("slots")
    url = pair.urls[1] + "/v1/chat/completions"

    def hold() -> None:
        with contextlib.suppress(httpx2.RemoteProtocolError):
            httpx2.post(url, json=BODY, headers=headers, timeout=60)

    clients = ThreadPoolExecutor(4)
    with slow(sandbox, 60):
        for _ in range(4):
            clients.submit(hold)
        until(lambda: sandbox.state.count("openai", "/chat/completions") == 4, 20)

    def answered_by_redis(status: int) -> bool:
        before = pair.metric("xrouter_ratelimit_store_errors_total")  # then the share answers
        found = pair.ask(headers).status_code
        return found == status and pair.metric("xrouter_ratelimit_store_errors_total") == before

    until(lambda: answered_by_redis(429), 30)
    pair.processes[1].kill()
    clients.shutdown()
    assert until(lambda: answered_by_redis(200), 40) > 5


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
    pair.admits(pair.key("requests"), 60, 30)


def both_degraded(pair: Pair, wanted: bool) -> bool:
    return all(pair.metric("xrouter_ratelimit_degraded", at) == wanted for at in (0, 1))


def test_f09_what_was_admitted_without_redis_counts_there_when_it_is_back(pair: Pair, sandbox: Sandbox) -> None:
    """Requests, tokens, and the places of requests that still run. Fails if the shares keep it to themselves: then 20
    requests more are admitted, all of the tokens are left, and all of the places are free.
    """
    headers, tokens, slots = (pair.key(tier) for tier in ("requests", "tokens", "slots"))
    assert statuses(pair.storm(headers, 10)) == {200: 10}
    pair.redis.freeze()
    until(lambda: both_degraded(pair, True), 5)
    assert statuses(pair.storm(headers, 12)) == {200: 12}
    used = sum(response.json()["usage"]["total_tokens"] for response in pair.storm(tokens, 4))
    with slow(sandbox, 4), ThreadPoolExecutor(1) as running:
        held = running.submit(pair.storm, slots, 3)
        until(lambda: sandbox.state.count("openai", "/chat/completions") >= 29, 5)
        pair.redis.thaw()
        until(lambda: both_degraded(pair, False), 5)
        assert pair.redis.client().zcard(next(iter(pair.redis.client().keys("xrl:*concurrency*")))) == 3
        assert statuses(held.result()) == {200: 3}
    pair.admits(headers, 40, 8)
    after = pair.storm(tokens, 1)[0]
    last = after.json()["usage"]["total_tokens"]
    until(lambda: pair.redis.client().zcard(next(iter(pair.redis.client().keys("xrl:*concurrency*")), "none")) == 0, 5)
    left = int(pair.storm(tokens, 1, max_tokens=1)[0].headers["x-ratelimit-remaining-tokens"])
    assert 9000 - used - last - 10 <= left < 9000 - used - last


def test_f10_redis_frozen_under_load(pair: Pair) -> None:
    """Fails without the breaker: each process then goes on asking a server that does not answer."""
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
    pair.admits(pair.key("requests"), 60, 30)


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


class Clients:
    """Clients of both gateways, who ask one after another until they are told to stop."""

    def __init__(self, pair: Pair, headers: dict[str, str], number: int = 6) -> None:
        self.answers: Counter[int] = Counter()
        self.admitted: Counter[int] = Counter()  # by gateway
        self.refused_by_redis = 0  # a refusal by a share tells the share
        self._pair, self._headers = pair, headers
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(number)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        url = self._pair.urls[number % 2] + "/v1/chat/completions"
        with httpx2.Client(timeout=60, headers=self._headers) as client:
            while not self._ended.is_set():
                answer = client.post(url, json=BODY)
                self.answers[answer.status_code] += 1
                self.admitted[number % 2] += answer.status_code == 200
                self.refused_by_redis += answer.headers.get("x-ratelimit-limit") == "400" and answer.status_code == 429
                self._ended.wait(0.05)

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("policy", ["local_share", "allow"])
def test_f11_no_client_notices_a_failover(tmp_path: Path, sandbox: Sandbox, policy: str) -> None:
    """The master dies under load. Under `local_share` the limit holds over all of it: the shares of both gateways are the
    limit together, and what they admit meanwhile is told to the new master. What may come on top is what one gateway has had
    of the limit beyond its half when it loses Redis, since the other one's half is whole.

    Fails under `deny` (503); without the telling (the new master then admits as much again as the shares did); and with
    `gateways: 1`. Then, in 40 runs on a busy machine, 401 to 800 were admitted 8 times: the outage was long enough for both
    to spend a whole limit each, or one was back 60 ms before the other and spent what that had yet to tell.
    """
    sentinels = Sentinels(tmp_path, replicas=2)
    try:
        sentinels.wait_until_whole()
        with running_pair(tmp_path, sandbox, sentinels.master, policy, f"{sentinels.url}?replicas=1", 2) as pair:
            clients = Clients(pair, pair.key("hour"))
            try:
                until(lambda: clients.answers[200] >= 60, 60)
                sentinels.master.kill()
                until(lambda: pair.metric("xrouter_ratelimit_degraded") == 1, 10)
                degraded_s = until(lambda: both_degraded(pair, False), 60)
                until(lambda: clients.refused_by_redis >= 50, 120)
            finally:
                clients.stop()
            assert set(clients.answers) == {200, 429}
            assert degraded_s < 30, (
                "the goal is 4, and docs/limits.md has what was measured; a busy machine has the rest"
            )
            if policy == "local_share":
                one, other = clients.admitted[0], clients.admitted[1]
                assert 400 - pair.store_errors() <= one + other <= 400 + abs(one - other)
    finally:
        sentinels.stop()
