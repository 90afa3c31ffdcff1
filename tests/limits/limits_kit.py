"""Limits and claims for tests, and time that passes for either store."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pytest
from kit.keys import HandWorld

from xrouter.limits.limit import Change, Claim, Decision, Limit
from xrouter.limits.memory import MemoryStore
from xrouter.limits.redis_store import RedisStore
from xrouter.limits.store import LimitStore, StoreDown


def limit(**fields: Any) -> Limit:
    chosen: dict[str, Any] = {"name": "l", "per": "key", "kind": "requests", "amount": 3, "window_s": 1, **fields}
    chosen.setdefault("burst", chosen["amount"])
    return Limit(**chosen)


def claim(wanted: Limit, amount: int = 1, subject: str = "k") -> Claim:
    return Claim(wanted, f"xrl:{{acc}}:{wanted.name}:{wanted.strategy[0]}{wanted.window_s}:{subject}", amount)


def change(of: Claim, decision: Decision, delta: int, index: int = 0) -> Change:
    return Change(of.limit, of.key, decision.states[index].mark, delta)


class TimedStore(Protocol):
    """A store and a way to let time pass for it."""

    store: LimitStore

    async def pass_s(self, seconds: float) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.world = HandWorld()
        self.store = MemoryStore(self.world)

    async def pass_s(self, seconds: float) -> None:
        self.world.advance(seconds)


class InRedis:
    """Its time is the server's, so tests of it use windows of a fraction of a second and wait."""

    def __init__(self, store: LimitStore) -> None:
        self.store = store

    async def pass_s(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def next_call_fails(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The next call fails once the event is set; those after it are as ever."""
    fails = asyncio.Event()

    async def fail(*_: object) -> list[bytes]:
        await fails.wait()
        monkeypatch.undo()
        raise ConnectionError("gone")

    monkeypatch.setattr(store._link._client, "run", fail)
    return fails


async def start_well(store: RedisStore) -> RedisStore:
    """Started, and the server found well: a busy machine may need more than the half second of the first look."""
    await store.start()
    async with asyncio.timeout(30):
        while store.degraded:
            await asyncio.sleep(0.01)
    return store


async def admitted(store: LimitStore, claims: Sequence[Claim], lease: str = "r") -> bool:
    return (await store.admit(lease, claims)).admitted


WIDE = claim(limit(amount=1000, window_s=60))


async def answered(store: LimitStore) -> None:
    """One admission, however often a busy machine lets the deadline of a call pass."""
    async with asyncio.timeout(30):
        while True:
            try:
                assert await admitted(store, [WIDE])
                return
            except StoreDown:
                await asyncio.sleep(0.05)


async def until(condition: Callable[[], bool], within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
