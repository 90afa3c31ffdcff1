"""One simulated process of the gateway: its loop, its ledger, the chain of its configuration, and its end."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from simulation.sim_client import Request
from simulation.sim_settings import Variant, settings_of
from simulation.sim_store import SimulatedBooks, SimulatedJournal, Store
from simulation.virtual_loop import Scheduler, VirtualLoop
from simulation.virtual_world import VirtualWorld, WallClock

from xrouter import ids
from xrouter.app import Gateway
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.presence import Presence

_DRAIN_S = 3.0


class QuietLog:
    """In the place of the writer of request lines: counts them."""

    def __init__(self) -> None:
        self.lines = 0

    def write(self, record: object) -> None:
        self.lines += 1


class _Unused:
    """In the place of the store of keys and of the limits: no filter of the simulated chains asks more than their kind."""

    dialect = SimpleNamespace(name="none")


class Process:
    """`start` on its own loop; then it serves until `stop`, or until it is killed."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        clock: WallClock,
        store: Store,
        seed: int,
        complain: Callable[[str], None],
    ) -> None:
        self.name = name
        self.loop = VirtualLoop(scheduler, store.delay, complain)
        self.loop.blown = self.kill
        self.world = VirtualWorld(scheduler, clock, seed)
        self.store = store
        self.books = SimulatedBooks(store, self, self.world.now)
        self.journal = SimulatedJournal(store, ids.time_ordered(self.world))
        self.presence = Presence(store.journals.parent)  # whose descriptors are not the journals'
        self.ledger: Ledger
        self.gateway: Gateway
        self.variant: Variant
        self.log: Any = QuietLog()
        self.serving = False
        self.stopping = False
        self.was_killed = False
        self.alive = True
        self.born_at = scheduler.time  # monotonic
        self.died_at = float("inf")
        self.pauses: list[float] = []  # when it was paused and went on, in turns
        self.forgotten: set[str] = set()  # generations whose settlement it could write nowhere
        self.renewed_at = float("-inf")  # monotonic, when it last said that it lives
        self.requests: dict[Request, asyncio.Task[None]] = {}
        self.killed: Callable[[Process], None] = lambda process: None

    async def start(self, lease_s: float, variant: Variant, holders: "dict[str, Process]") -> None:
        """Raises StoreUnavailable: the process ends, and its supervisor starts another."""
        self.ledger = Ledger(self.books, self.world, lease_s=lease_s, journal=self.journal, presence=self.presence)
        holders[self.ledger.holder] = self
        await self.ledger.start()
        unused: Any = _Unused()
        self.gateway = Gateway(settings_of(variant), world=self.world, log_writer=self.log)
        self.gateway._ledger = self.ledger
        self.gateway._engine = self.gateway._keys = self.gateway._limits = unused
        self.gateway._started.set()  # its parts are these; a reload waits for that
        await self.reload(variant)
        self.serving = True

    async def reload(self, variant: Variant) -> None:
        """Requests under way keep what they have."""
        prepared = await self.gateway.prepare(settings_of(variant))
        self.variant = variant
        await self.gateway.commit(prepared)

    def serve(self, request: Request) -> None:
        task = self.loop.create_task(request.run())
        self.requests[request] = task
        task.add_done_callback(lambda _: self.requests.pop(request, None))

    async def stop(self) -> None:
        """As at SIGTERM, which comes once: drain, cancel what is left, let it settle, close."""
        self.stopping = True
        self.serving = False
        if self.requests:
            await asyncio.wait(list(self.requests.values()), timeout=_DRAIN_S)
        left = list(self.requests.values())
        for task in left:
            task.cancel("the server stops")
        if left:
            await asyncio.wait(left)
        await self.ledger.aclose()

    def pause(self) -> None:
        if not self.loop.paused:
            self.loop.paused = True
            self.pauses.append(self.loop.time())

    def go_on(self) -> None:
        if self.loop.paused:
            self.loop.paused = False
            self.pauses.append(self.loop.time())

    def ran_s(self, since: float) -> float:
        """How long it has run from `since` to its death, pauses taken off."""
        ends = [*self.pauses, self.died_at] if len(self.pauses) % 2 else self.pauses
        paused = sum(
            max(0.0, min(end, self.died_at) - max(start, since)) for start, end in zip(*[iter(ends)] * 2, strict=True)
        )
        return self.died_at - since - paused

    def exit(self) -> None:
        """It has stopped."""
        self.alive = False
        self._forget()
        self.died_at = self.loop.time()
        self.loop.kill()
        self.journal.exit()
        self.presence.leave()

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more; the system takes back its files."""
        if not self.alive:
            return
        self.alive = self.serving = False
        self.was_killed = True
        self._forget()
        self.died_at = self.loop.time()
        self.loop.kill()
        self.journal.tear(self.loop.pending(self.journal._append))
        self.journal.exit()
        self.presence.leave()
        self.books.exit()
        for request in list(self.requests):
            request.lose()
        self.killed(self)

    def _forget(self) -> None:
        """What neither the database nor the disk would take dies with the process: settlements that it had put off."""
        if hasattr(self, "ledger"):
            self.forgotten |= {operation.generation_id for operation in self.ledger._put_off}  # type: ignore[union-attr]
