"""One run of the simulation: several processes of the gateway, clients, upstreams, operators and trouble, from one seed."""

import asyncio
import gc
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, TypeVar
from unittest.mock import patch

from simulation.sim_client import ACCOUNTS, CORRECTED, KEYS, POOR, RICH, TINY, Request, plan
from simulation.sim_process import Process
from simulation.sim_settings import VARIANTS, Variant, settings_of
from simulation.sim_store import Store
from simulation.sim_upstream import Upstreams
from simulation.sim_verdict import verdict
from simulation.sim_witness import Witness
from simulation.virtual_loop import Failure, Scheduler, VirtualLoop
from simulation.virtual_world import WallClock

from xrouter.errors import StoreUnavailable, XRouterError
from xrouter.ledger.operations import Transfer
from xrouter.store.migrate import open_store

_T = TypeVar("_T")
_MOST_HANDLES: Final = 6_000  # callbacks a request: beyond that, something goes round in circles
_LONGEST_S: Final = 1_200.0  # virtual, from the end of all trouble to the end of every request
_MOST_DELIVERIES: Final = 8  # under way
_GRANTS: Final = {RICH: 10**14, POOR: 3 * 10**9, TINY: 5 * 10**7, CORRECTED: 10**12}
_TROUBLES: Final = ("kill", "kill", "pause", "stop", "outage", "full disk", "clock", "reload", "reload")


class Killed(Exception):
    """The process that was to do it is dead."""


@dataclass(frozen=True)
class Character:
    """What is special about one run: not every trouble comes in each, so that some go far and others deep."""

    slots: int
    lease_s: float
    between_s: float  # requests come so far apart, on average
    trouble_s: float  # and trouble
    troubles: tuple[str, ...]
    leaving: float  # share of the clients that leave
    faulty: bool  # whether single commits fail, lose their answer, come twice
    slow_s: float
    variants: tuple[Variant, ...]

    @classmethod
    def of(cls, chance: random.Random) -> "Character":
        troubles = tuple(one for one in _TROUBLES if chance.random() < 0.7)
        return cls(
            slots=chance.choice((1, 2, 2, 3)),
            lease_s=chance.choice((8.0, 20.0, 60.0)),
            between_s=chance.choice((0.02, 0.1, 0.4)),
            trouble_s=chance.choice((1.0, 4.0, 15.0)),
            troubles=troubles or ("reload",),
            leaving=chance.choice((0.0, 0.2, 0.5)),
            faulty=chance.random() < 0.8,
            slow_s=chance.choice((0.0, 0.0, 0.05, 0.5)),
            variants=tuple(chance.sample(VARIANTS, 4)),
        )


@dataclass
class Sent:
    """A transfer and what is known of it. The same one may be sent again and again, in any order."""

    transfer: Transfer
    acknowledged: bool = False
    refused: bool = False


@dataclass(frozen=True)
class Result:
    """`problem` is None if nothing was wrong. `operations`: of the ledger, committed, and events of requests."""

    seed: int
    problem: str | None
    operations: int
    requests: int
    digest: str
    counts: dict[str, int] = field(default_factory=dict)


def simulate(seed: int, requests: int = 300) -> Result:
    """Everything in it follows from `seed` and `requests`."""
    with tempfile.TemporaryDirectory(dir=_fast_folder(), prefix="xrouter-sim-") as folder:
        run = Run(seed, requests, Path(folder))
        return run.result()


class Run:
    def __init__(self, seed: int, requests: int, folder: Path) -> None:
        self.seed = seed
        self.chance = chance = random.Random(seed)
        self.character = Character.of(chance)
        self.lease_s = self.character.lease_s
        self.scheduler = Scheduler(random.Random(chance.random()), _MOST_HANDLES * (requests + 100))
        self.clock = WallClock(self.scheduler)
        self.path = folder / "money.db"
        shutil.copy(_template(), self.path)
        self.store = Store(self.path, random.Random(chance.random()), lambda: self.scheduler.time)
        self.store.slow_s, self.store.faulty = self.character.slow_s, self.character.faulty
        self.witness = Witness(self, str(self.path), self.fail)
        self.store.seen = self.witness
        self.upstreams = Upstreams(random.Random(chance.random()), self.noted)
        self.outside = VirtualLoop(self.scheduler, lambda: 0.0, self.fail)  # where clients and operators live
        self.processes: dict[int, Process] = {}
        self.buried: list[Process] = []
        self.holders: dict[str, Process] = {}
        self.requests: list[Request] = []
        self.ended: dict[str, Request] = {}
        self.sent: list[Sent] = []
        self.counts: dict[str, int] = {}
        self.calm = False
        self.trouble_ended = 0.0  # monotonic, when something that excuses a delay ended
        self._requests = requests
        self._under_way = 0
        self._deliveries = 0
        self._digest = blake2b(digest_size=16)
        self._gone: dict[Process, asyncio.Future[None]] = {}
        self._calls: dict[Process, list[asyncio.Future[Any]]] = {}

    # What is seen of it.

    def noted(self, kind: str, name: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._digest.update(b"%.6f %s %s\n" % (self.scheduler.time, kind.encode(), name.encode()))

    def fail(self, problem: str) -> None:
        if self.scheduler.problem is None:
            self.scheduler.problem = problem

    @property
    def patience_s(self) -> float:
        """How long ending something may take after all trouble: some sweeps, of which single commits may fail."""
        return self.lease_s * 1.5 + 30 * self.character.slow_s + 10

    def disturbed_until(self) -> float:
        """Until when the store, the clock or a lack of running processes excuses that something has not ended."""
        now = self.scheduler.time
        if not any(process.serving and not process.loop.paused for process in self.processes.values()):
            return now
        return max(
            self.trouble_ended,
            self.store.away_until,
            self.store.full_until,
            self.clock.set_at + self.lease_s,
        )

    def result(self) -> Result:
        problem: str | None = None
        errors = _Errors(self.fail)
        gc.disable()  # a run leaves little garbage, and looking for it takes a quarter of the time
        try:
            with patch("xrouter.upstream.caller.build_engine", self.upstreams.engine), errors:
                for variant in self.character.variants:
                    settings_of(variant)
                self.scheduler.run_until(self.outside.create_task(self._live()))
            problem = self.scheduler.problem or verdict(self)
        except Failure as failure:
            problem = str(failure)
        finally:
            logging.disable()  # what the dead complain of
            self._bury()
            logging.disable(logging.NOTSET)
        operations = self.witness.operations + sum(
            count for kind, count in self.counts.items() if kind in _REQUEST_EVENTS
        )
        return Result(self.seed, problem, operations, len(self.requests), self._digest.hexdigest(), dict(self.counts))

    def _bury(self) -> None:
        """Free what the run has used: nothing of it may be left for the collector to find in somebody else's test."""
        for process in [*self.processes.values(), *self.buried]:
            process.killed = lambda _: None
            process.kill()
            process.loop.bury()
        self.outside.kill()
        self.outside.bury()
        self.witness.close()
        gc.enable()

    # The play.

    async def _live(self) -> None:
        keepers = [self.outside.create_task(self._keep(slot)) for slot in range(self.character.slots)]
        for account, nano in _GRANTS.items():
            self._deliver(self._transfer("grant", account, nano))
        while self._deliveries:
            await asyncio.sleep(0.5)
        operators = self.outside.create_task(self._operate())
        trouble = self.outside.create_task(self._trouble())
        await self._load()
        self.calm = True
        trouble.cancel()
        operators.cancel()
        await self._calm()
        for keeper in keepers:
            keeper.cancel()
        for process in self.processes.values():
            if process.alive:
                await self._across(process, process.stop())
                process.exit()

    async def _load(self) -> None:
        chance = random.Random(self.chance.random())
        for number in range(self._requests):
            await asyncio.sleep(chance.expovariate(1 / self.character.between_s))
            planned = plan(f"r{number}", chance, self.character.leaving)
            self._begin(Request(planned, await self._some(chance), self.noted))

    def _begin(self, request: Request) -> None:
        self.requests.append(request)
        self._under_way += 1
        self.noted("request begun", request.plan.name)

        def over() -> None:
            self._under_way -= 1
            self.noted("request ended", f"{request.plan.name} {request.status} {request.complete} {request.lost}")
            if request.generation is not None:
                self.ended[request.generation] = request

        request.over = over
        request.process.serve(request)
        if request.plan.leaves_after_s is not None:
            self.outside.call_later(request.plan.leaves_after_s, request.leave)

    async def _calm(self) -> None:
        """Trouble is over: everything comes to its end by itself."""
        self.store.faulty, self.store.slow_s = False, 0.0
        self.store.away_until = self.store.full_until = float("-inf")
        self.upstreams.calm = True
        self.trouble_ended = self.scheduler.time
        for process in self.processes.values():
            process.go_on()
            process.loop.fuse = None
        deadline = self.scheduler.time + _LONGEST_S
        while self._under_way or self._deliveries:
            await asyncio.sleep(1.0)
            if self.scheduler.time > deadline:
                names = [request.plan.name for request in self.requests if not request.ended]
                raise Failure(f"{_LONGEST_S:.0f} s later {names[:5]} have not ended, and {self._deliveries} transfers")
        await self._some(self.chance)
        await asyncio.sleep(2 * self.lease_s + self.patience_s)
        self.witness.look()

    async def _keep(self, slot: int) -> None:
        """A supervisor: when its process has died, it starts another."""
        chance = random.Random(self.chance.random())
        number = 0
        while True:
            number += 1
            process = Process(
                f"p{slot}.{number}", self.scheduler, self.clock, self.store, chance.getrandbits(40), self.fail
            )
            if slot in self.processes:
                self.buried.append(self.processes[slot])
            self.processes[slot] = process
            process.killed = self._killed
            gone = self._gone[process] = self.outside.create_future()
            self.noted("process", process.name)
            try:
                await self._across(process, self._start(process, chance))
                await gone
            except StoreUnavailable:
                process.kill()
            except Killed:
                pass
            self.trouble_ended = max(self.trouble_ended, self.scheduler.time)
            await asyncio.sleep(chance.choice((0.0, 0.5, 5.0, 2 * self.lease_s)) if not self.calm else 0.0)

    async def _start(self, process: Process, chance: random.Random) -> None:
        variant = chance.choice(self.character.variants)
        await process.start(self.lease_s, variant, self.holders)

    def _killed(self, process: Process) -> None:
        self.noted("killed", process.name)
        for call in self._calls.pop(process, []):
            if not call.done():
                call.set_exception(Killed())
                call.exception()  # whoever waited may have gone
        gone = self._gone.pop(process)
        if not gone.done():
            gone.set_result(None)

    def _across(self, process: Process, work: Coroutine[Any, Any, _T]) -> "asyncio.Future[_T]":
        """`work` in `process`, its result out here. Raises Killed if the process dies before."""
        outcome: asyncio.Future[_T] = self.outside.create_future()
        if not process.alive:
            work.close()
            outcome.set_exception(Killed())
            return outcome
        calls = self._calls.setdefault(process, [])
        calls.append(outcome)
        task = process.loop.create_task(work)

        def done(_: object) -> None:
            calls.remove(outcome)
            if outcome.done():
                return
            if (error := task.exception()) is not None:
                outcome.set_exception(error)
                outcome.exception()
            else:
                outcome.set_result(task.result())

        task.add_done_callback(done)
        return outcome

    def _any(self, chance: random.Random) -> Process | None:
        """A process that takes requests. One that is stopped takes some too: the system accepts for it."""
        serving = [
            process
            for process in self.processes.values()
            if process.serving and (not process.loop.paused or chance.random() < 0.1)
        ]
        return chance.choice(serving) if serving else None

    async def _some(self, chance: random.Random) -> Process:
        """As `_any`, once there is one."""
        while (process := self._any(chance)) is None:
            await asyncio.sleep(3.0)
        return process

    # Trouble.

    async def _trouble(self) -> None:
        chance = random.Random(self.chance.random())
        while True:
            await asyncio.sleep(chance.expovariate(1 / self.character.trouble_s))
            kind = chance.choice(self.character.troubles)
            process = self._any(chance)
            if process is None:
                continue
            self.noted("trouble", f"{kind} {process.name}")
            match kind:
                case "kill":
                    process.loop.fuse = chance.choice((1, 3, 10, 50, 200))
                case "pause":
                    self._pause(process, chance)
                case "stop":
                    self.outside.create_task(self._stop(process))
                case "outage":
                    self.store.away_until = self.scheduler.time + chance.choice((0.05, 0.5, 2.0, 10.0, self.lease_s))
                case "full disk":
                    self.store.full_until = self.scheduler.time + chance.choice((0.5, 5.0))
                case "clock":
                    self.clock.set_by(chance.choice((-7200.0, -90.0, -10.0, 10.0, 90.0, 7200.0, 90_000.0)))
                case "reload":
                    self.outside.create_task(self._reload(process, chance.choice(self.character.variants)))

    def _pause(self, process: Process, chance: random.Random) -> None:
        process.pause()
        longest = 3600.0 if self.lease_s > 30 else 5 * self.lease_s
        pause_s = chance.choice((1.0, self.lease_s, 2.5 * self.lease_s, longest))

        def resume() -> None:
            process.go_on()
            self.trouble_ended = max(self.trouble_ended, self.scheduler.time)

        self.outside.call_later(pause_s, resume)

    async def _stop(self, process: Process) -> None:
        if process.stopping:
            return
        process.stopping = True
        try:
            await self._across(process, process.stop())
        except Killed:
            return
        if process.alive:
            process.exit()
            self._killed(process)

    async def _reload(self, process: Process, variant: Variant) -> None:
        with suppress(Killed):
            await self._across(process, process.reload(variant))

    # Operators.

    async def _operate(self) -> None:
        chance = random.Random(self.chance.random())
        while True:
            await asyncio.sleep(chance.expovariate(1 / (5 * self.character.between_s)))
            if self._deliveries < _MOST_DELIVERIES:
                self._deliver(self._decide(chance))

    def _decide(self, chance: random.Random) -> Sent:
        named = chance.random() < 0.8
        kind = chance.choice(("grant", "grant", "refund", "refund", "adjustment", "other"))
        if kind == "refund" and self.witness.charged:
            generation, account, charge = chance.choice(self.witness.charged[-50:])
            return self._transfer("refund", account, chance.choice((charge, charge // 2 + 1)), named, generation)
        if kind == "adjustment":
            return self._transfer(
                "adjustment", CORRECTED, chance.choice((1, -1)) * chance.choice((7, 10**9, 10**11)), named
            )
        if kind == "other" and self.sent and (old := chance.choice(self.sent)).transfer.idempotency_key:
            # The key of another transfer: refused, unless it is the same again.
            return self._transfer("grant", TINY, 12_345, named, key=old.transfer.idempotency_key)
        return self._transfer("grant", chance.choice(ACCOUNTS), chance.choice((1, 10**6, 10**8, 10**9)), named)

    def _transfer(
        self,
        kind: Any,
        account: str,
        nano: int,
        named: bool = True,
        generation: str | None = None,
        key: str | None = None,
    ) -> Sent:
        name = f"t{len(self.sent)}"
        sent = Sent(
            Transfer(
                kind=kind,
                account=account,
                amount_nano=nano,
                reason=name,
                author="simulation",
                idempotency_key=(key or name) if named else None,
                generation_id=generation,
            )
        )
        self.sent.append(sent)
        return sent

    def _deliver(self, sent: Sent) -> None:
        self._deliveries += 1
        self.outside.create_task(self._delivery(sent))

    async def _delivery(self, sent: Sent) -> None:
        """Until it is known to be done or refused, and then perhaps once more: so payment providers do it."""
        chance = random.Random(self.chance.random())
        again = 2 if sent.transfer.idempotency_key is not None and chance.random() < 0.3 else 1
        try:
            while again:
                process = await self._some(chance)
                try:
                    await self._across(process, process.ledger.transfer(sent.transfer))
                except (StoreUnavailable, Killed):
                    if sent.transfer.idempotency_key is None:
                        return  # it may have happened, and nobody will ever know whether it was this one
                except XRouterError:
                    sent.refused = True
                    return
                else:
                    sent.acknowledged = True
                    again -= 1
                await asyncio.sleep(chance.choice((0.1, 1.0, 10.0)))
        finally:
            self._deliveries -= 1


_REQUEST_EVENTS: Final = frozenset(
    {"request begun", "request ended", "client message", "client left", "upstream call", "upstream piece"}
)
_template_path: Path | None = None


class _Errors(logging.Handler):
    """The gateway logs what no code of its own expected: that is a failure."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._failed = failed
        self._logger = logging.getLogger("xrouter")

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._failed(f"{record.getMessage()}: {record.exc_info[1]!r}")

    def __enter__(self) -> None:
        self._before = (self._logger.level, self._logger.propagate)
        self._logger.setLevel(logging.ERROR)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before


def _fast_folder() -> str | None:
    """A file system in memory, where there is one: what the disk does is simulated anyway."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _template() -> Path:
    """An empty database with this program's schema and the keys of the simulation, made once."""
    global _template_path
    if _template_path is None or not _template_path.exists():
        _template_path = Path(tempfile.mkdtemp(prefix="xrouter-sim-")) / "template.db"
        asyncio.run(_make(_template_path))
    return _template_path


async def _make(path: Path) -> None:
    engine = await open_store(f"sqlite:///{path}")
    async with engine.begin() as connection:
        for key, (limit, reset) in KEYS.items():
            await connection.exec_driver_sql(
                "INSERT INTO api_keys (hash, label, name, account, limit_nano, limit_reset, management, disabled,"
                " created_at_us) VALUES (?, '', '', '', ?, ?, 0, 0, 0)",
                (key, limit, reset),
            )
    await engine.dispose()
