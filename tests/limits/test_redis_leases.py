"""Leases of concurrency in Redis: who holds a place renews it, and nobody else does."""

import asyncio
from typing import Any

import pytest
from kit.redis_server import RedisServer
from limits_kit import admitted, answered, change, claim, limit, next_call_fails, start_well

from xrouter.limits.limit import Change, Claim
from xrouter.limits.redis_client import open_client
from xrouter.limits.redis_store import RedisStore
from xrouter.limits.store import StoreDown


async def test_a_dead_process_keeps_its_places_for_its_lease(redis: RedisServer, redis_store: RedisStore) -> None:
    two = claim(limit(kind="concurrency", amount=2, window_s=0))
    dead = RedisStore(open_client(redis.url), lease_s=2)
    await dead.start()
    assert [await admitted(dead, [two], f"d{n}") for n in range(2)] == [True, True]
    assert not await admitted(redis_store, [two])
    await dead.aclose()  # it renews nothing any more, and has given nothing back
    await asyncio.sleep(2.1)
    assert [await admitted(redis_store, [two], f"r{n}") for n in range(3)] == [True, True, False]


async def test_a_long_request_keeps_its_place(redis: RedisServer) -> None:
    """Fails without the renewal."""
    store = RedisStore(open_client(redis.url), lease_s=1)
    await store.start()
    one = claim(limit(kind="concurrency", amount=1, window_s=0))
    decision = await store.admit("long", [one])
    for _ in range(5):
        await asyncio.sleep(0.4)
        assert not await admitted(store, [one], "other")
    store.settle([change(one, decision, -1)])
    assert await admitted(store, [one], "other")
    await store.aclose()


async def test_a_cancelled_admission_leaves_nothing_taken(redis: RedisServer, redis_store: RedisStore) -> None:
    """Fails if the reply is forgotten with the caller: the script has run all the same."""
    slots = claim(limit(kind="concurrency", amount=5, window_s=0))
    for turns in range(12):
        task = asyncio.create_task(redis_store.admit(f"r{turns}", [slots]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(result, asyncio.CancelledError):
            redis_store.settle([change(slots, result, -1)])
    await asyncio.sleep(0.1)
    look = await redis_store.admit("look", [claim(slots.limit, 0)])
    assert look.states[0].remaining == 5
    assert redis_store._held == {}


async def test_a_lease_that_could_not_be_taken_is_not_taken_after_its_end(
    redis_store: RedisStore, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where it is kept and sent again: nobody ends it a second time, and its place is renewed for ever."""
    slot = claim(limit(kind="concurrency", amount=1, window_s=0))

    def fail(_: object) -> asyncio.Future[Any]:
        monkeypatch.undo()
        failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        failed.set_exception(StoreDown("once", sent=False))
        return failed

    monkeypatch.setattr(redis_store._link, "call", fail)
    redis_store.settle([Change(slot.limit, slot.key, "r", 0)])
    redis_store.settle([Change(slot.limit, slot.key, "r", -1)])
    await asyncio.sleep(0)
    await answered(redis_store)
    redis_store._renew()
    assert await admitted(redis_store, [slot], "other")
    assert list(redis_store._held) == [(slot.key, "other")]


ONE = claim(limit(name="c", kind="concurrency", amount=1, window_s=0))
TOKENS = claim(limit(name="t", kind="tokens", amount=5, window_s=60), 10)  # more than there ever are


async def test_a_request_that_its_second_step_refuses_renews_nothing(redis: RedisServer) -> None:
    """Fails if the store goes by what it settles alone: the script has ended the lease, and the next renewal takes it anew.

    Then each request that is refused for its tokens holds a place until its process ends.
    """
    store = await start_well(RedisStore(open_client(redis.url), lease_s=1, deadline_s=5))
    for leaves in (False, True):
        first = await store.admit("r", [ONE])
        second = asyncio.create_task(store.admit("r", [TOKENS], [change(ONE, first, -1)]))
        if leaves:
            await asyncio.sleep(0)
            second.cancel()
            assert isinstance((await asyncio.gather(second, return_exceptions=True))[0], asyncio.CancelledError)
        else:
            assert not (await second).admitted
        await asyncio.sleep(0.8)  # two renewals
        assert await admitted(store, [ONE], "other")
        store.settle([Change(ONE.limit, ONE.key, "other", -1)])
    await store.aclose()


async def test_a_client_that_leaves_in_a_call_that_fails_holds_no_place(
    redis: RedisServer, patient_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if what a cancelled call was to give back is forgotten where the call fails: its lease is renewed for ever."""
    first = await patient_store.admit("r", [ONE])
    fails = next_call_fails(patient_store, monkeypatch)
    second = asyncio.create_task(
        patient_store.admit("r", [Claim(TOKENS.limit, TOKENS.key, 1)], [change(ONE, first, -1)])
    )
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    fails.set()
    async with asyncio.timeout(10):
        while patient_store._held:
            await asyncio.sleep(0.01)
    assert await admitted(patient_store, [ONE], "other")
