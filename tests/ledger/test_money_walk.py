"""Money through the whole gateway on real sockets: every charge is what its rule says, wherever a stream breaks."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from kit.gateway import RunningGateway, running_gateway
from kit.hostile import Peer, Script
from kit.money import adjust, problems
from kit.raw_client import RawClient
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, open_chat, read_stream, until, user

from xrouter import leaving, tokens
from xrouter.store.amounts import parse_credits
from xrouter.wire import encode_json

IN, OUT = 1_000_000, 2_000_000  # nanocredits a token
MODELS = """
upstreams:
  up: {{provider: openai, base_url: "${{URL}}", concurrency: 64}}
models:
  paid/chat: {{price: {{input: "1", output: "2"}}, max_output: 1000, routes: [{{upstream: up, model: m}}]}}
  free/chat: {{price: free, routes: [{{upstream: up, model: m}}]}}
filters:
  - auth: {{}}
  - body: {{}}
  - routing: {{retries: 0}}
  - token_count: {{}}
  - quota: {{client_abort: {policy}}}
"""
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def event(**fields: Any) -> bytes:
    return b"data: " + encode_json({"id": "u", "model": "m", **fields}) + b"\n\n"


def word(text: str) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}])


FINISH = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
USAGE = event(choices=[], usage={"prompt_tokens": 21, "completion_tokens": 34, "total_tokens": 55})
DONE = b"data: [DONE]\n\n"
STREAM = word("Лима ") + word("is the ") + word("capital.") + FINISH + USAGE + DONE


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def gateways(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RunningGateway]]:
    """A gateway per policy, each with credits, each proven at its end."""
    with closing(Gateways(upstream, tmp_path_factory)) as running:
        yield running.get


class Gateways:
    def __init__(self, upstream: Scripted, folders: pytest.TempPathFactory) -> None:
        self.upstream, self.folders = upstream, folders
        self.running: dict[str, tuple[Any, RunningGateway]] = {}

    def get(self, policy: str) -> RunningGateway:
        if policy not in self.running:
            folder = self.folders.mktemp(policy)
            manager = running_gateway(MODELS.format(policy=policy), {"URL": self.upstream.url}, folder)
            gateway = manager.__enter__()
            asyncio.run(adjust(gateway.store, 10**12))
            self.running[policy] = (manager, gateway)
        return self.running[policy][1]

    def close(self) -> None:
        for manager, gateway in self.running.values():
            manager.__exit__(None, None, None)
            assert asyncio.run(problems(gateway.store)) == ()


def receipt(gateway: RunningGateway, generation: str) -> dict[str, Any]:
    """The one receipt of a generation, once it is there."""
    found: list[sqlite3.Row] = []

    def there() -> bool:
        with closing(sqlite3.connect(gateway.store.removeprefix("sqlite:///"))) as connection:
            connection.row_factory = sqlite3.Row
            found[:] = connection.execute("SELECT * FROM generations WHERE id = ?", (generation,)).fetchall()
        return bool(found)

    until(there)
    assert len(found) == 1
    return dict(found[0])


def rows(gateway: RunningGateway, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(gateway.store.removeprefix("sqlite:///"))) as connection:
        return connection.execute(sql).fetchall()


def credits_of(gateway: RunningGateway) -> int:
    return sum(row[0] for row in rows(gateway, "SELECT balance_nano FROM accounts WHERE name = 'tests'"))


def sends(data: bytes, *, then_waits: bool = False) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD + data)
        await peer.drain()
        if then_waits:
            await peer.left()

    return script


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.left()


def cost(row: dict[str, Any]) -> int:
    return row["input_tokens"] * IN + row["output_tokens"] * OUT


def test_the_answer_tells_what_was_charged(upstream: Scripted, gateways: Callable[[str], RunningGateway]) -> None:
    gateway = gateways("bill_delivered")
    body = encode_json(
        {
            "id": "u",
            "object": "chat.completion",
            "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Lima"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 21, "completion_tokens": 34, "total_tokens": 55},
        }
    )

    async def whole(peer: Peer) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        await peer.request()
        peer.send(head % len(body) + body)
        await peer.drain()

    upstream.set(whole)
    answer = chat(gateway, "paid/chat", "?")
    assert answer.status_code == 200
    charged = receipt(gateway, answer.headers["x-generation-id"])["charged_nano"]
    assert charged == 21 * IN + 34 * OUT == 89_000_000
    assert answer.headers["x-xrouter-cost"] == "0.089000000"
    free = chat(gateway, "free/chat", "?")
    assert free.headers["x-xrouter-cost"] == "0.000000000"


def test_f03_cut_at_every_byte_what_was_delivered_is_charged_once(
    upstream: Scripted, gateways: Callable[[str], RunningGateway]
) -> None:
    """Every offset ends with an event and one receipt; no token delivered: free."""
    gateway = gateways("bill_delivered")
    rules = set()
    for offset in range(len(STREAM) + 1):
        upstream.set(sends(STREAM[:offset]))
        answer = chat(gateway, "paid/chat", "?", stream=True, stream_options={"include_usage": True})
        row = receipt(gateway, answer.headers["x-generation-id"])
        rules.add(row["rule"])
        if row["rule"] == "nothing_generated":
            assert row["charged_nano"] == 0
            if answer.status_code == 200:
                assert read_stream(answer).text == ""
            continue
        stream = read_stream(answer)
        assert row["charged_nano"] == cost(row)
        if row["rule"] == "complete":
            assert stream.error is None
            if row["usage_source"] == "reported":
                assert (row["input_tokens"], row["output_tokens"]) == (21, 34)
        else:
            assert row["rule"] == "upstream_error:delivered"
            assert stream.error is not None
        if row["usage_source"] == "counted":
            assert row["output_tokens"] == tokens.count(stream.text)
    assert rules == {"nothing_generated", "upstream_error:delivered", "complete"}
    assert rows(gateway, "SELECT count(*) FROM holds WHERE state = 'open'") == [(0,)]


@pytest.mark.parametrize("policy", ["bill_delivered", "cancel", "drain_and_bill"])
def test_f08_who_leaves_is_charged_by_the_policy_at_every_word(
    upstream: Scripted, gateways: Callable[[str], RunningGateway], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upstream says nothing more, so that what is drained ends with its time."""
    monkeypatch.setattr(leaving, "DRAIN_S", 0.1)
    gateway = gateways(policy)
    words = ["One ", "two ", "three ", "four "]
    for count in range(len(words) + 1):
        upstream.set(sends(b"".join(map(word, words[:count])), then_waits=True))
        if count == 0:
            with raw_chat(gateway) as client:
                until(lambda: len(upstream.requests) == 1)
                client.close()
            (generation,) = rows(gateway, "SELECT generation_id FROM holds ORDER BY generation_id DESC LIMIT 1")[0]
        else:
            with open_chat(gateway, "paid/chat", "?") as response:
                generation = response.headers["x-generation-id"]
                read = b""
                for piece in response.iter_raw():
                    read += piece
                    if words[count - 1].strip().encode() in read:
                        break
        row = receipt(gateway, generation)
        if count == 0:
            assert (row["rule"], row["charged_nano"]) == ("nothing_generated", 0)
        elif policy == "cancel":  # the provider has reported nothing
            assert (row["rule"], row["charged_nano"]) == ("client_abort:cancel", 0)
        else:
            assert row["rule"] == f"client_abort:{policy}"
            assert row["output_tokens"] == tokens.count("".join(words[:count]))
            assert row["charged_nano"] == cost(row)


def test_f08_a_drained_answer_is_charged_by_what_the_upstream_reports_at_its_end(
    upstream: Scripted, gateways: Callable[[str], RunningGateway]
) -> None:
    gateway = gateways("drain_and_bill")
    left = threading.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD + word("Лима "))
        await peer.drain()
        await asyncio.to_thread(left.wait, 10)
        await asyncio.sleep(0.2)  # the gateway has noticed by then
        peer.send(word("is the capital.") + FINISH + USAGE + DONE)
        await peer.drain()

    upstream.set(script)
    with open_chat(gateway, "paid/chat", "?") as response:
        generation = response.headers["x-generation-id"]
        for piece in response.iter_raw():
            if "Лима".encode() in piece:
                break
    left.set()
    row = receipt(gateway, generation)
    assert (row["outcome"], row["rule"]) == ("client_abort", "client_abort:drain_and_bill")
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (21, 34, "reported")
    assert row["charged_nano"] == cost(row)


@pytest.mark.parametrize("policy", ["bill_delivered", "cancel"])
def test_f08_left_after_any_byte_of_the_answer_there_is_one_end(
    upstream: Scripted, gateways: Callable[[str], RunningGateway], policy: str
) -> None:
    gateway = gateways(policy)
    upstream.set(sends(STREAM))
    before = rows(gateway, "SELECT count(*) FROM generations")[0][0]
    offsets = range(0, 900, 23)
    for offset in offsets:
        with raw_chat(gateway) as client:
            left = offset
            while left and (data := client.read(left)):
                left -= len(data)
            client.reset()
    until(lambda: rows(gateway, "SELECT count(*) FROM holds WHERE state = 'open'") == [(0,)])
    until(lambda: rows(gateway, "SELECT count(*) FROM generations")[0][0] >= before + len(offsets) - 1)
    for charged, input_, output in rows(gateway, "SELECT charged_nano, input_tokens, output_tokens FROM generations"):
        assert charged in (0, input_ and input_ * IN + output * OUT)


def raw_chat(gateway: RunningGateway) -> RawClient:
    """A stream asked for on a connection whose every byte is the test's to read."""
    client = RawClient((gateway.server.host, gateway.server.port))
    data = encode_json({"model": "paid/chat", "messages": user("?"), "stream": True})
    client.send(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    return client


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": -5},
        {"prompt_tokens": 5, "completion_tokens": 2**63 - 1},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": "7", "completion_tokens": "9"},
        None,
    ],
)
def test_f07_whatever_usage_the_upstream_tells_the_charge_is_not_negative_and_not_huge(
    upstream: Scripted, gateways: Callable[[str], RunningGateway], usage: Any
) -> None:
    gateway = gateways("bill_delivered")
    upstream.set(sends(word("Lima") + FINISH + event(choices=[], usage=usage) + DONE))
    answer = chat(gateway, "paid/chat", "?", stream=True)
    row = receipt(gateway, answer.headers["x-generation-id"])
    assert 0 <= row["charged_nano"] <= 100 * OUT
    if usage == {"prompt_tokens": 0, "completion_tokens": 0}:
        assert row["charged_nano"] == 0


def test_f33_many_at_once_on_a_balance_for_a_few(upstream: Scripted, tmp_path: Path) -> None:
    """200 at once where 20 can be paid: 20 reach the upstream. A thousand holds for a hundred: test_ledger_crashes.py."""
    upstream.set(silent)
    with running_gateway(MODELS.format(policy="bill_delivered"), {"URL": upstream.url}, tmp_path) as gateway:
        asyncio.run(adjust(gateway.store, -credits_of(gateway) + 1))
        needed = chat(gateway, "paid/chat", "?", max_tokens=10).json()["error"]["metadata"]["needed"]
        asyncio.run(adjust(gateway.store, 20 * parse_credits(needed)))
        assert sorted(asyncio.run(refused(gateway, 200, 180))) == [402] * 180
        assert rows(gateway, "SELECT count(*) FROM holds") == [(20,)]
        assert len(upstream.requests) == 20
    assert asyncio.run(problems(gateway.store)) == ()


async def refused(gateway: RunningGateway, count: int, until_done: int) -> list[int]:
    """Ask `count` times at once; the statuses of the first `until_done`. The others are left waiting, then left."""
    limits = httpx2.Limits(max_connections=count)
    body = {"model": "paid/chat", "messages": user("?"), "max_tokens": 10}
    async with httpx2.AsyncClient(base_url=gateway.url, headers=gateway.auth, limits=limits, timeout=60) as client:

        async def ask() -> int:
            return (await client.post("/v1/chat/completions", json=body)).status_code

        waiting = {asyncio.create_task(ask()) for _ in range(count)}
        statuses: list[int] = []
        while len(statuses) < until_done:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            statuses += [task.result() for task in done]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return statuses
