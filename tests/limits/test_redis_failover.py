"""Row F11 of the fault matrix: Sentinel fails over in the middle of load. Real servers; `sentinels.py` starts them."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits_kit import admitted, claim, limit, start_well
from sentinels import Sentinels

from xrouter.limits.redis_client import open_client
from xrouter.limits.redis_store import RedisStore
from xrouter.limits.store import StoreDown

STORES, CLIENTS, LIMIT = 3, 9, 300
WINDOW = claim(limit(amount=LIMIT, window_s=3600))


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    found = Sentinels(tmp_path)
    try:
        found.wait_until_whole()
        yield found
    finally:
        found.stop()


class Load:
    """Clients of several stores, as of several gateways, that ask for one limit until they are told to stop."""

    def __init__(self, stores: list[RedisStore]) -> None:
        self.answers: Counter[str] = Counter()
        self._stores = stores
        self._tasks = [asyncio.create_task(self._ask(stores[n % len(stores)], n)) for n in range(CLIENTS)]

    async def _ask(self, store: RedisStore, number: int) -> None:
        while True:
            try:
                answer = "admitted" if await admitted(store, [WINDOW], f"c{number}") else "refused"
            except StoreDown:
                answer = "away"
            self.answers[answer] += 1
            await asyncio.sleep(0.01)

    async def until(self, answer: str, more: int) -> None:
        wanted = self.answers[answer] + more
        async with asyncio.timeout(60):
            while self.answers[answer] < wanted:
                await asyncio.sleep(0.01)

    async def until_asked(self, more: int) -> None:
        """Whatever the answers are."""
        wanted = self.answers.total() + more
        async with asyncio.timeout(60):
            while self.answers.total() < wanted:
                await asyncio.sleep(0.01)

    async def all_well(self) -> None:
        async with asyncio.timeout(60):
            while any(store.degraded for store in self._stores):
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for store in self._stores:
            await store.aclose()


async def started(url: str) -> list[RedisStore]:
    return [await start_well(RedisStore(open_client(url), deadline_s=0.5)) for _ in range(STORES)]


@pytest.mark.parametrize("cut", ["killed", "parted"])
async def test_f11_a_failover_forgets_nothing_that_was_answered(sentinels: Sentinels, cut: str) -> None:
    """`killed`: the master dies in mid-load. `parted`: before that it is cut off from its replica while clients still
    reach it, so what it then says is known to nobody else.

    Fails without `replicas=1`: the parted master admits the whole limit and the replica the rest again, 564 of 300.
    """
    load = Load(await started(f"{sentinels.url}?replicas=1"))
    await load.until("admitted", 30)
    if cut == "parted":
        sentinels.part()
        await load.until_asked(2 * LIMIT)
    sentinels.master.kill()
    if cut == "parted":
        sentinels.replica.thaw()
    await load.until("away", 10)
    await asyncio.to_thread(sentinels.fail_over)
    await load.all_well()
    await load.until("refused", 3 * CLIENTS)
    await load.stop()
    assert load.answers["admitted"] <= LIMIT
    assert load.answers["admitted"] > LIMIT // 2, "the calls that failed took more than they can have"


async def test_f11_a_master_without_its_replica_is_away(sentinels: Sentinels) -> None:
    """Fails if the probe does not wait for the replica: the breaker would close again and again."""
    (store, *others) = await started(f"{sentinels.url}?replicas=1")
    for other in others:
        await other.aclose()
    sentinels.replica.kill()
    async with asyncio.timeout(60):
        while not store.degraded:
            with pytest.raises(StoreDown):
                await store.admit("r", [WINDOW])
        sentinels.replica.start()
        while store.degraded:
            await asyncio.sleep(0.01)
    await store.aclose()
