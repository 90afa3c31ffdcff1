"""F29: an `Idempotency-Key` on inference: sent again, at once, with another body, by another key, to another gateway."""

import asyncio
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from kit import stores
from kit.fault_proxy import Fault, FaultProxy
from kit.gateway import RunningGateway, new_key, running_gateway
from kit.hostile import Peer, answer, answering
from kit.scripted import Scripted, scripted_upstream

from xrouter.store.idempotent_requests import drop_old
from xrouter.wire import encode_json

ROUNDS = int(os.environ.get("XROUTER_IDEMPOTENT_REQUESTS", "120"))
CONFIG = """
store: {store}
upstreams:
  up: {{provider: openai, base_url: "${{URL}}"}}
models:
  paid/chat: {{price: {{input: "1", output: "2", per: 1}}, max_output: 1000, routes: [{{upstream: up, model: m}}]}}
ledger: {{hold_lease_s: 2}}
filters: [auth, body, {{routing: {{retries: 0, breaker: {{failures: 1000000}}}}}}, token_count, quota]
"""
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
COST_NANO = (10 + 3 * 2) * 10**9
CHOICE = {"index": 0, "finish_reason": "stop"}
TEXT = "the answer, once"
WHOLE = answer(
    encode_json(
        {
            "id": "u",
            "model": "m",
            "usage": USAGE,
            "choices": [{**CHOICE, "message": {"role": "assistant", "content": TEXT}}],
        }
    ),
    "content-type: application/json",
)
STREAM = answer(
    b"data: "
    + encode_json({"id": "u", "model": "m", "usage": USAGE, "choices": [{**CHOICE, "delta": {"content": TEXT}}]})
    + b"\n\ndata: [DONE]\n\n",
    "content-type: text/event-stream",
)
BROKEN = answer(b"{}", "content-type: application/json", status="500 Internal Server Error")


@pytest.fixture(autouse=True)
def _both_kinds(store_kind: str) -> None:
    """On SQLite and on PostgreSQL."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as running:
        yield running


@contextmanager
def serving(upstream: Scripted, folder: Path) -> Iterator[RunningGateway]:
    """A gateway on the store that all gateways under the same `tmp_path` share."""
    folder.mkdir(exist_ok=True)
    store = stores.current.url(folder.parent / "shared.db")
    with running_gateway(CONFIG.format(store=store), {"URL": upstream.url}, folder) as running:
        yield running


@pytest.fixture
def gateway(upstream: Scripted, tmp_path: Path) -> Iterator[RunningGateway]:
    with serving(upstream, tmp_path / "one") as running:
        yield running


def body(text: str = "?", **fields: Any) -> dict[str, Any]:
    return {"model": "paid/chat", "messages": [{"role": "user", "content": text}], **fields}


def send(
    gateway: RunningGateway,
    name: str,
    text: str = "?",
    *,
    key: str | None = None,
    url: str | None = None,
    **fields: Any,
) -> httpx2.Response:
    headers = {"Idempotency-Key": name, **({"Authorization": f"Bearer {key}"} if key else {})}
    return gateway.client.post((url or "") + "/v1/chat/completions", json=body(text, **fields), headers=headers)


def charges(gateway: RunningGateway) -> list[int]:
    return [amount for (amount,) in stores.rows(gateway.store, "SELECT amount_nano FROM entries WHERE kind = 'charge'")]


def claims(gateway: RunningGateway) -> int:
    return len(stores.rows(gateway.store, "SELECT owner FROM idempotent_requests"))


class Gate:
    """An upstream that has a request and keeps it until it is told to answer."""

    def __init__(self, upstream: Scripted) -> None:
        self.came, self.go = threading.Event(), threading.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            self.came.set()
            await asyncio.to_thread(self.go.wait, 20)
            peer.send(WHOLE)
            await peer.drain()
            await peer.left()

        upstream.set(script)


def test_f29_a_whole_answer_comes_again_and_is_charged_once(upstream: Scripted, gateway: RunningGateway) -> None:
    """Fails if the answer is not kept (409 comes), and if the claim is not taken (two charges)."""
    upstream.set(answering(*[WHOLE] * 2))
    first, again = send(gateway, "one"), send(gateway, "one")
    assert first.status_code == again.status_code == 200, again.text
    assert again.content == first.content
    for name in ("x-generation-id", "x-xrouter-cost", "x-xrouter-upstream", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert charges(gateway) == [COST_NANO]
    assert len(upstream.requests) == 1


def test_f29_while_it_runs_the_same_is_refused_and_costs_nothing(
    upstream: Scripted, gateway: RunningGateway, tmp_path: Path
) -> None:
    """In the same process, and in another one on the same store. Fails if a living holder's claim is taken over."""
    gate = Gate(upstream)
    with serving(upstream, tmp_path / "two") as other, ThreadPoolExecutor(1) as thread:
        running = thread.submit(send, gateway, "one")
        assert gate.came.wait(10)
        for refused in (send(gateway, "one"), send(gateway, "one", url=other.url)):
            assert refused.status_code == 409
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["type"] == "conflict"
        gate.go.set()
        first = running.result(20)
        assert send(gateway, "one", url=other.url).content == first.content
    assert charges(gateway) == [COST_NANO]
    assert len(upstream.requests) == 1


def test_f29_another_body_is_422_and_another_owner_is_independent(upstream: Scripted, gateway: RunningGateway) -> None:
    """Fails if the body's digest is not compared, and if a claim has no owner."""
    upstream.set(answering(*[WHOLE] * 3))
    assert send(gateway, "one").status_code == 200
    assert send(gateway, "one", "another").status_code == 422
    theirs = send(gateway, "one", "another", key=new_key(gateway.store, account="others"))
    assert theirs.status_code == 200
    assert "idempotent-replayed" not in theirs.headers
    assert charges(gateway) == [COST_NANO] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_f29_what_failed_for_nothing_leaves_no_trace(upstream: Scripted, gateway: RunningGateway, stream: bool) -> None:
    """Fails if a claim is not given up."""
    upstream.set(answering(BROKEN))
    assert send(gateway, "one", stream=stream).status_code == 502
    assert claims(gateway) == 0
    assert send(gateway, "one", key=new_key(gateway.store, account="poor", limit_nano=0)).status_code == 402
    assert claims(gateway) == 0
    upstream.set(answering(STREAM if stream else WHOLE))
    assert send(gateway, "one", stream=stream).status_code == 200
    assert charges(gateway) == [COST_NANO]


def test_f29_a_stream_that_is_done_is_named(upstream: Scripted, gateway: RunningGateway) -> None:
    """Fails if the claim of a stream is given up at its end."""
    upstream.set(answering(*[STREAM] * 2))
    first, again = send(gateway, "one", stream=True), send(gateway, "one", stream=True)
    assert first.status_code == 200
    assert again.status_code == 409
    assert again.json()["error"]["metadata"]["generation_id"] == first.headers["x-generation-id"]
    assert again.headers["x-should-retry"] == "false"
    assert charges(gateway) == [COST_NANO]


@pytest.mark.parametrize("name", ["", "x" * 256, "with space", "ключ"])
def test_f29_what_is_no_idempotency_key_is_400(upstream: Scripted, gateway: RunningGateway, name: str) -> None:
    """Fails if names are not checked."""
    upstream.set(answering(WHOLE))
    headers = [(b"Idempotency-Key", name.encode()), (b"Authorization", f"Bearer {gateway.key}".encode())]
    answered = httpx2.post(gateway.url + "/v1/chat/completions", json=body(), headers=headers)
    assert answered.status_code == 400
    assert upstream.requests == []


def test_f29_an_answer_over_1_mb_is_not_kept(upstream: Scripted, gateway: RunningGateway) -> None:
    """Fails without the bound: it would come again."""
    large = answer(
        encode_json(
            {
                "id": "u", "model": "m", "usage": USAGE,
                "choices": [{**CHOICE, "message": {"role": "assistant", "content": "x" * 1_000_001}}],
            }
        ),
        "content-type: application/json",
    )  # fmt: skip
    upstream.set(answering(large))
    assert send(gateway, "one").status_code == 200
    assert send(gateway, "one").status_code == 409
    assert charges(gateway) == [COST_NANO]


def test_f29_no_answer_can_be_read_in_the_store(upstream: Scripted, gateway: RunningGateway) -> None:
    """Fails if answers are kept as they are."""
    upstream.set(answering(WHOLE))
    assert send(gateway, "the-name").status_code == 200
    (row,) = stores.rows(gateway.store, "SELECT * FROM idempotent_requests")
    assert row[5].count(".") == 4, "a JWE has five parts"
    assert TEXT not in str(row)
    assert "the-name" not in str(row)


async def test_f29_openais_client_sends_a_lost_answer_again_and_pays_once(
    upstream: Scripted, gateway: RunningGateway
) -> None:
    """The answer is cut on its way, after the settlement, until it is charged. Fails if the claim is not taken."""
    upstream.set(answering(*[WHOLE] * 9))
    async with FaultProxy(int(gateway.url.rpartition(":")[2]), Fault(cut_after=250, cut="reset")) as proxy:
        base_url = f"http://127.0.0.1:{proxy.port}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key=gateway.key, max_retries=9) as client:
            create = client.chat.completions.create(**body(), extra_headers={"Idempotency-Key": "one"})
            asking = asyncio.create_task(create)
            while not await asyncio.to_thread(charges, gateway):
                await asyncio.sleep(0.01)
            while proxy.connections < 2:
                await asyncio.sleep(0.01)
            proxy.set(Fault())
            answered = await asyncio.wait_for(asking, 60)
    assert answered.choices[0].message.content == TEXT
    assert charges(gateway) == [COST_NANO]
    assert len(upstream.requests) == 1


def test_f29_after_a_day_a_name_is_free_and_forgotten(upstream: Scripted, gateway: RunningGateway) -> None:
    """Fails if claims are kept for ever."""
    upstream.set(answering(*[WHOLE] * 2))
    assert send(gateway, "one").status_code == 200
    day_us = 24 * 3600 * 1_000_000
    stores.execute(gateway.store, f"UPDATE idempotent_requests SET created_at_us = created_at_us - {day_us}")
    assert "idempotent-replayed" not in send(gateway, "one").headers
    stores.execute(gateway.store, f"UPDATE idempotent_requests SET created_at_us = created_at_us - {day_us}")
    assert gateway.app._engine is not None
    assert gateway.call(drop_old(gateway.app._engine, int(time.time() * 1e6))) == 1
    assert claims(gateway) == 0
    assert charges(gateway) == [COST_NANO] * 2


def test_what_was_kept_is_forgotten_by_a_process_that_takes_no_claims(upstream: Scripted, tmp_path: Path) -> None:
    """Fails if only who takes a claim drops old ones: a client that uses no more such keys leaves its answers for ever."""
    upstream.set(answering(WHOLE))
    with serving(upstream, tmp_path / "one") as first:
        assert send(first, "one").status_code == 200
        stores.execute(first.store, "UPDATE idempotent_requests SET created_at_us = created_at_us - 86400000000")
        with serving(upstream, tmp_path / "two") as second:
            deadline = time.monotonic() + 20
            while claims(second):
                assert time.monotonic() < deadline, "the old claim is still there"
                time.sleep(0.05)


@pytest.mark.parametrize("charged", [True, False])
def test_f29_the_claim_of_a_process_that_is_gone_ends_with_its_lease(
    upstream: Scripted, gateway: RunningGateway, charged: bool
) -> None:
    """As a killed process leaves it, before its settlement or after. Fails if the ledger is not looked at.

    What that process may still have in its journal is settled too late, and changes nothing.
    """
    upstream.set(answering(*[WHOLE] * 3))
    first = send(gateway, "one")
    if not charged:
        first = send(gateway, "two")
        generation = "gen-" + "0" * 26
        stores.execute(gateway.store, f"UPDATE idempotent_requests SET generation_id = '{generation}' WHERE generation_id = "
                       f"'{first.headers['x-generation-id']}'")  # fmt: skip
    stores.execute(gateway.store, "UPDATE idempotent_requests SET sealed = NULL, holder = 'gone'")
    before = len(charges(gateway))
    again = send(gateway, "one" if charged else "two")
    if charged:
        assert again.status_code == 409
        assert again.json()["error"]["metadata"]["generation_id"] == first.headers["x-generation-id"]
        assert len(charges(gateway)) == before
        return
    assert again.status_code == 200
    assert len(charges(gateway)) == before + 1
    (settled,) = stores.rows(gateway.store, f"SELECT rule, charged_nano FROM generations WHERE id = '{generation}'")
    assert settled == ("abandoned", 0)


def test_f29_any_interleaving_charges_a_name_once(upstream: Scripted, gateway: RunningGateway, tmp_path: Path) -> None:
    """Eight clients, a few names and bodies, two gateways on one store; some leave early, some requests fail upstream.

    Fails if a claim is not taken in one transaction. `XROUTER_IDEMPOTENT_REQUESTS=20000` for the long run.
    """
    chance = random.Random(29)

    async def script(peer: Peer) -> None:
        while await peer.request():
            await asyncio.sleep(chance.random() * 0.02)
            peer.send(BROKEN if chance.random() < 0.3 else WHOLE)
            await peer.drain()

    upstream.set(script)
    names = [f"name {number}".replace(" ", "-") for number in range(max(6, ROUNDS // 20))]
    answered: dict[str, set[tuple[bytes, str]]] = {name: set() for name in names}
    seen: list[int] = []

    async def client(urls: list[str], mine: random.Random) -> None:
        async with httpx2.AsyncClient(headers=gateway.auth, timeout=30) as session:
            for _ in range(ROUNDS // 8):
                name = mine.choice(names)
                text = "other" if mine.random() < 0.1 else "?"
                request = session.post(
                    mine.choice(urls) + "/v1/chat/completions", json=body(text), headers={"Idempotency-Key": name}
                )
                if mine.random() < 0.2:
                    task = asyncio.create_task(request)
                    await asyncio.sleep(mine.random() * 0.03)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    continue
                response = await request
                seen.append(response.status_code)
                assert response.status_code in (200, 409, 422, 502, 503), response.text  # 503: a machine too busy
                if response.status_code == 200:
                    answered[name].add((response.content, response.headers["x-generation-id"]))

    async def run(urls: list[str]) -> None:
        await asyncio.gather(*(client(urls, random.Random(number)) for number in range(8)))

    with serving(upstream, tmp_path / "two") as other:
        asyncio.run(run([gateway.url, other.url]))
    assert all(len(found) <= 1 for found in answered.values()), "one name has had two answers"
    named = stores.rows(
        gateway.store,
        "SELECT count(*) FROM entries WHERE kind = 'charge' AND generation_id NOT IN"
        " (SELECT generation_id FROM idempotent_requests)",
    )
    assert named == [(0,)], "a charge that no claim names: its name may be charged again"
    print(f"{len(seen)} answers, {len(charges(gateway))} charges, {len(names)} names")
    assert len(charges(gateway)) <= len(names)
    assert seen.count(200) > 0
    upstream.set(answering())
