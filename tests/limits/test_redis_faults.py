"""Rows F09, F10 and F12 of the fault matrix, below the filter: a real server killed, frozen, flushed and spoiled."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from kit.redis_server import RedisServer
from limits_kit import WIDE, admitted, answered, change, claim, limit, next_call_fails, until

from xrouter.limits import redis_link
from xrouter.limits.limit import NOW, Change
from xrouter.limits.redis_client import open_client
from xrouter.limits.redis_store import RedisStore
from xrouter.limits.store import StoreDown


async def failure_s(store: RedisStore) -> float:
    """How long a failing admission takes."""
    began = time.monotonic()
    with pytest.raises(StoreDown):
        await store.admit("r", [WIDE])
    return time.monotonic() - began


async def test_f09_a_killed_server_costs_five_calls_little_and_the_rest_nothing(
    redis: RedisServer, redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Fails without the breaker: no gauge, no line in the log."""
    await answered(redis_store)
    with caplog.at_level(logging.WARNING, "xrouter.limits"):
        redis.kill()
        first = [await failure_s(redis_store) for _ in range(5)]
        assert sorted(first)[2] < 0.3
        assert max(first) < 3
        assert redis_store.degraded
        later = sorted([await failure_s(redis_store) for _ in range(200)])
        assert later[100] < 0.005
        assert redis_store.counters.store_errors >= 5
        redis.start()
        await until(lambda: not redis_store.degraded)
    await answered(redis_store)
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "limits: Redis is away",
        "limits: Redis is back",
    ]


async def test_f09_an_idle_gateway_notices_too(redis: RedisServer, redis_store: RedisStore) -> None:
    redis.kill()
    await until(lambda: redis_store.degraded)


async def test_f10_a_frozen_server_costs_one_deadline(redis: RedisServer, redis_store: RedisStore) -> None:
    """Fails with redis-py's own retries and time-outs: the first call then takes seconds. The best of three: the machine has
    others to serve.
    """
    alone = []
    for _ in range(3):
        await answered(redis_store)
        redis.freeze()
        alone.append(await failure_s(redis_store))
        redis.thaw()
        await until(lambda: not redis_store.degraded)
    assert min(alone) < 0.5
    redis.freeze()
    storm = await asyncio.gather(*(failure_s(redis_store) for _ in range(100)))
    assert max(storm) < 2.5
    await until(lambda: redis_store.degraded)
    assert sorted([await failure_s(redis_store) for _ in range(100)])[50] < 0.005
    redis.thaw()
    await until(lambda: not redis_store.degraded)
    await answered(redis_store)


async def test_f10_a_server_that_is_frozen_when_the_gateway_starts(redis: RedisServer) -> None:
    redis.freeze()
    store = RedisStore(open_client(redis.url))
    await store.start()
    assert store.degraded
    redis.thaw()
    await until(lambda: not store.degraded)
    assert await admitted(store, [WIDE])
    await store.aclose()


async def test_f12_a_server_that_forgets_everything_is_one_burst_more(
    redis: RedisServer, patient_store: RedisStore
) -> None:
    three = claim(limit(window_s=60))
    assert [await admitted(patient_store, [three]) for _ in range(4)] == [True] * 3 + [False]
    redis.client().flushall()
    assert [await admitted(patient_store, [three]) for _ in range(4)] == [True] * 3 + [False]


async def test_f12_a_lost_script_is_loaded_again(redis: RedisServer, patient_store: RedisStore) -> None:
    assert await admitted(patient_store, [WIDE])
    redis.client().script_flush()
    assert all(await asyncio.gather(*(admitted(patient_store, [WIDE]) for _ in range(30))))
    assert (await patient_store.admit("r", [claim(WIDE.limit, 0)])).states[0].remaining == 1000 - 31
    assert patient_store.counters.store_errors == 0


@pytest.mark.parametrize("strategy", ["fixed_window", "sliding_window", "token_bucket", "concurrency"])
async def test_f12_a_key_of_another_type_is_replaced(
    redis: RedisServer, patient_store: RedisStore, caplog: pytest.LogCaptureFixture, strategy: str
) -> None:
    if strategy == "concurrency":
        three = claim(limit(kind="concurrency", window_s=0))
    else:
        three = claim(limit(strategy=strategy, window_s=60))
    for met_by in ("a claim", "a change"):
        redis.client().delete(three.key)
        redis.client().rpush(three.key, "not", "ours")
        if met_by == "a change":
            patient_store.settle([Change(three.limit, three.key, "gone" if strategy == "concurrency" else 0, -1)])
        assert [await admitted(patient_store, [three], f"r{n}") for n in range(4)] == [True] * 3 + [False]
    replaced = [record for record in caplog.records if "replaced" in record.message]
    assert len(replaced) == 1


async def test_f12_a_slice_that_is_none_is_dropped(redis: RedisServer, patient_store: RedisStore) -> None:
    three = claim(limit(window_s=60))
    redis.client().hset(three.key, mapping={"1": "nonsense", "x": "5 5", "2": ""})
    assert [await admitted(patient_store, [three]) for _ in range(4)] == [True] * 3 + [False]


async def test_f11_a_new_master_whose_clock_is_behind_forgets_nothing(
    redis: RedisServer, patient_store: RedisStore
) -> None:
    """Fails where a slice for now is begun anew while there is one of a later time: what was used in it is written over."""
    five = claim(limit(amount=5, window_s=3600))
    seconds, micros = redis.client().time()
    now = seconds * 1_000_000 + micros
    index = now * 60 // 3_600_000_000
    redis.client().hset(five.key, mapping={str(index): f"2 {now}", str(index + 1): f"1 {now + 60_000_000}"})
    assert [await admitted(patient_store, [five]) for _ in range(6)] == [True] * 2 + [False] * 4


@pytest.mark.parametrize("setting", [("maxmemory", "1"), ("min-replicas-to-write", "1")])
async def test_f12_a_server_that_takes_no_writes_is_away(
    redis: RedisServer, redis_store: RedisStore, setting: tuple[str, str]
) -> None:
    """The probe writes: a reading one would close the breaker again and again."""
    await answered(redis_store)
    redis.client().config_set(*setting)
    for _ in range(5):
        await failure_s(redis_store)
    await asyncio.sleep(1.2)
    assert redis_store.degraded
    redis.client().config_set(setting[0], "0")
    await until(lambda: not redis_store.degraded)
    await answered(redis_store)


async def test_what_could_not_be_given_back_is_when_the_server_is_well_again(
    redis: RedisServer, redis_store: RedisStore
) -> None:
    tokens, slot = (
        claim(limit(name="t", kind="tokens", amount=100, window_s=60), 60),
        claim(limit(name="c", kind="concurrency", amount=1, window_s=0)),
    )
    decision = await redis_store.admit("r", [tokens, slot])
    redis.freeze()
    for _ in range(5):
        await failure_s(redis_store)
    assert redis_store.degraded
    redis_store.settle([change(tokens, decision, -50), change(slot, decision, -1, 1)])
    redis.thaw()
    await until(lambda: not redis_store.degraded)
    after = await redis_store.admit("s", [claim(tokens.limit, 0), slot])
    assert (after.admitted, after.states[0].remaining) == (True, 90)


async def test_what_failed_once_is_sent_again_though_there_was_no_outage(
    redis: RedisServer, patient_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if only a recovery sends what is kept: one call that fails opens no breaker, so there is none."""
    tokens = claim(limit(kind="tokens", amount=100, window_s=60), 10)
    decision = await patient_store.admit("r", [tokens])
    client = patient_store._link._client
    with monkeypatch.context() as broken:
        broken.setattr(client, "run", AsyncMock(side_effect=ConnectionError("gone")))
        patient_store.settle([change(tokens, decision, 20), Change(tokens.limit, tokens.key, NOW, 30)])
        await until(lambda: patient_store.counters.store_errors == 1)
    assert not patient_store.degraded
    await patient_store.admit("s", [claim(WIDE.limit, 1, "another")])
    assert (await patient_store.admit("t", [claim(tokens.limit, 0)])).states[0].remaining == 40


async def test_what_was_told_and_not_answered_is_told_again_and_counts_once(
    redis: RedisServer, patient_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a new master does that has no replica yet: it runs the script and cannot confirm it, perhaps more than once.

    Fails if a use has no name, or the script does not know it: then all that was admitted in an outage counts three times.
    """
    kinds = [
        claim(limit(name=kind, strategy=kind, amount=100, window_s=3600)) for kind in ("fixed_window", "sliding_window")
    ]
    run = patient_store._link._client.run

    async def lose(*call: Any) -> list[bytes]:
        await run(*call)
        raise ConnectionError("gone")

    async def failed(tell: Callable[[], None]) -> None:
        before = patient_store.counters.store_errors
        with monkeypatch.context() as broken:
            broken.setattr(patient_store._link._client, "run", lose)
            tell()
            await until(lambda: patient_store.counters.store_errors > before)
            await asyncio.sleep(0)

    await failed(lambda: patient_store.settle([Change(one.limit, one.key, NOW, 30) for one in kinds]))
    await failed(patient_store._renew)
    patient_store.settle([Change(kinds[0].limit, kinds[0].key, NOW, 5)])
    await patient_store.admit("s", [claim(WIDE.limit, 1, "another")])
    looks = await patient_store.admit("t", [claim(one.limit, 0) for one in kinds] + [claim(kinds[0].limit, 0)])
    assert [state.remaining for state in looks.states] == [65, 70, 65]
    assert all(redis.client().pttl(key) > 0 for key in redis.client().keys("xrl:{*"))


async def test_what_was_queued_behind_a_call_that_fails_was_not_sent(
    patient_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if it counts as sent: what was to be given back is then dropped, lest it be given back twice."""
    tokens = claim(limit(kind="tokens", amount=100, window_s=60), 60)
    decision = await patient_store.admit("r", [tokens])
    fails = next_call_fails(patient_store, monkeypatch)
    sent = asyncio.create_task(patient_store.admit("s", [tokens]))
    await asyncio.sleep(0.01)
    patient_store.settle([change(tokens, decision, -50)])
    fails.set()
    with pytest.raises(StoreDown):
        await sent
    await patient_store.admit("t", [claim(WIDE.limit, 1, "another")])
    assert (await patient_store.admit("u", [claim(tokens.limit, 0)])).states[0].remaining == 90


async def test_corrections_that_wait_are_bounded(redis: RedisServer, redis_store: RedisStore) -> None:
    redis.kill()
    for _ in range(5):
        await failure_s(redis_store)
    redis_store.settle([Change(WIDE.limit, WIDE.key, 0, 1)] * 10_050)
    await asyncio.sleep(0)
    assert redis_store.counters.lost_changes == 50


async def test_closing_sends_what_is_queued(redis: RedisServer, shared_redis: RedisServer) -> None:
    store = RedisStore(open_client(redis.url))
    await store.start()
    slot = claim(limit(kind="concurrency", amount=1, window_s=0))
    decision = await store.admit("r", [slot])
    store.settle([change(slot, decision, -1)])
    await store.aclose()
    assert redis.client().zcard(slot.key) == 0


async def test_every_key_expires(redis: RedisServer, patient_store: RedisStore) -> None:
    all_kinds = [claim(limit(name=s, strategy=s)) for s in ("fixed_window", "sliding_window", "token_bucket")]
    all_kinds.append(claim(limit(name="c", kind="concurrency", window_s=0)))
    decision = await patient_store.admit("r", all_kinds)
    patient_store.settle([change(one, decision, 1, index) for index, one in enumerate(all_kinds[:3])])
    await patient_store.admit("r", [claim(all_kinds[0].limit, 0)])
    client = redis.client()
    assert set(client.keys("xrl:{*")) == {one.key for one in all_kinds}
    for one in all_kinds:
        assert 0 < client.pttl(one.key) <= (15_001 if one is all_kinds[3] else 1_001)


async def test_no_password_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = RedisStore(open_client("redis://user:CANARY@127.0.0.1:1/0"))
    await store.start()
    with pytest.raises(StoreDown) as caught:
        await store.admit("r", [WIDE])
    await store.aclose()
    assert "CANARY" not in f"{caught.value!r} {caplog.text}"
    assert "Redis is away" in caplog.text


def test_the_script_is_called_by_its_real_name(shared_redis: RedisServer) -> None:
    assert shared_redis.client().script_load(redis_link._SCRIPT) == redis_link._SHA
