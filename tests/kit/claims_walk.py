"""Many requests under few Idempotency-Keys, to several processes of one store, in any order; a name is charged once.

Requests are cancelled anywhere, fail, or are not kept; processes are taken for dead while they still work, and what they
settle then comes late.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from kit.claims import COST, Ended, request
from kit.keys import HandWorld
from kit.money import Money, grant, money

from xrouter import ids
from xrouter.errors import StoreUnavailable, XRouterError
from xrouter.ledger.idempotent import IdempotentRequests
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.opening import open_ledger

LEASE_S = 60.0
_AT_ONCE = 16
_NAMES_AT_ONCE = 12
_CREDITS = 10**15


@dataclass
class Walk:
    """`names` says under which name a generation ran; `ends` counts what requests were told."""

    chance: random.Random
    world: HandWorld
    books: Money
    running: list[tuple[Ledger, IdempotentRequests]] = field(default_factory=list)
    gone: list[tuple[Ledger, IdempotentRequests]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    told: dict[str, set[str]] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    first_name: int = 0

    async def begin_process(self) -> None:
        ledger = open_ledger(self.books.engine, self.world, lease_s=LEASE_S)
        await insist(ledger.renew)
        self.running.append((ledger, IdempotentRequests(self.books.engine, ledger, self.world)))

    async def one(self) -> None:
        chance = self.chance
        self.first_name += chance.random() < 0.2
        name = f"name-{self.first_name + chance.randrange(_NAMES_AT_ONCE)}"
        generation_id = ids.generation_id(self.world)
        self.names[generation_id] = name
        ledger, requests = chance.choice(self.running)
        work = request(
            requests, ledger, generation_id, name, fails=chance.random() < 0.3, keeps=chance.random() < 0.7,
            upstream_s=0.4 * chance.random() ** 3,
        )  # fmt: skip
        task = asyncio.create_task(work)
        if chance.random() < 0.25:
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
            await asyncio.sleep(chance.random() * 0.004)
            task.cancel()
        try:
            ended: Ended = await task
        except asyncio.CancelledError:
            self.ends["cancelled"] += 1
            return
        except XRouterError:  # its process was taken for dead between its claim and its hold
            self.ends["refused"] += 1
            return
        self.ends[ended.kind] += 1
        if ended.kind == "done":
            assert ended.generation_id is not None
            self.told.setdefault(name, set()).add(ended.generation_id)

    async def a_process_is_taken_for_dead(self) -> None:
        """It works on, and so does what it has begun; the others do not know."""
        self.ends["taken for dead"] += 1
        self.gone.append(self.running.pop(self.chance.randrange(len(self.running))))
        self.world.advance(LEASE_S + 1)
        for ledger, _ in self.running:
            await insist(ledger.renew)
        await insist(self.books.ledger.renew)
        await insist(self.books.ledger.expire)
        await self.begin_process()

    async def end(self) -> None:
        for ledger, requests in (*self.gone, *self.running):
            await asyncio.sleep(0)
            await requests.aclose()
            await ledger.aclose()
        self.world.advance(LEASE_S + 1)
        await insist(self.books.ledger.renew)
        await insist(self.books.ledger.expire)

    def check(self) -> None:
        charged = self.books.rows("SELECT generation_id FROM entries WHERE kind IN ('charge', 'overrun')")
        by_name = Counter(self.names[generation_id] for (generation_id,) in charged)
        assert not [name for name, times in by_name.items() if times > 1], "a name is charged twice"
        for name, generations in self.told.items():
            assert len(generations) == 1, f"{name} was told of two generations"
        assert self.books.rows("SELECT count(*) FROM holds WHERE state = 'open'") == [(0,)]


async def ticking(world: HandWorld) -> None:
    """What waits to try again, on a machine that is too busy for the store, waits by this clock."""
    while True:
        await asyncio.sleep(0.5)
        world.advance(0.1)


async def insist(work: Callable[[], Awaitable[object]]) -> None:
    """On a machine that is busy the store may be waited for in vain."""
    while True:
        try:
            await work()
        except StoreUnavailable:
            continue
        return


async def walk(folder: Path, seed: int, requests: int) -> Counter[str]:
    """So many requests. Raises AssertionError if a name is charged twice; the ledger is proven at the end."""
    world = HandWorld()
    async with money(folder, world, lease_s=LEASE_S, start=False, name=f"claims-{seed}.db") as books:
        await insist(books.ledger.renew)
        await books.ledger.transfer(grant(_CREDITS))
        this = Walk(random.Random(seed), world, books)
        for _ in range(3):
            await this.begin_process()
        ticker = asyncio.create_task(ticking(world))
        pending: set[asyncio.Task[None]] = set()
        for _ in range(requests):
            pending.add(asyncio.create_task(this.one()))
            if len(pending) == _AT_ONCE:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            if this.chance.random() < 0.02:
                await this.a_process_is_taken_for_dead()
        await asyncio.gather(*pending)
        await this.end()
        ticker.cancel()
        this.check()
        account = await books.account()
        assert account.balance_nano == _CREDITS - COST * len(
            books.rows("SELECT 1 FROM generations WHERE charged_nano > 0")
        )
        return this.ends
