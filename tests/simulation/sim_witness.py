"""What must hold while the simulated gateway runs, seen at each commit by somebody who knows only rows and processes."""

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from simulation.sim_client import CORRECTED

from xrouter.errors import XRouterError
from xrouter.ledger.operations import Expire, Operation, Renew, Result, RollUp, Settled, Settlement

if TYPE_CHECKING:
    from simulation.sim_process import Process
    from simulation.sim_run import Run

_LOOKS_EACH: Final = 8  # commits
_SMALL_STEP_S: Final = 2.5  # a clock that is set by less counts as not set (xrouter/ledger/sweeper.py)
_HOUSEKEEPING: Final = (Renew, Expire, RollUp)


class Witness:
    """`failed` is told of whatever must not be."""

    def __init__(self, run: "Run", path: str, failed: Callable[[str], None]) -> None:
        self.failed = failed
        self.operations = 0  # of the ledger, committed; housekeeping is not counted
        self.charged: list[tuple[str, str, int]] = []  # generation, account, charge: what can be refunded
        self.settled: dict[str, int] = {}  # generation → what it was first charged
        self.looks = 0
        self._expired: set[str] = set()
        self._run = run
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._until_look = _LOOKS_EACH

    def close(self) -> None:
        self._connection.close()

    def committed(self, process: "Process", operations: list[Operation], results: list[Result | XRouterError]) -> None:
        for operation, result in zip(operations, results, strict=True):
            kind = type(operation).__name__
            if not isinstance(operation, _HOUSEKEEPING):
                self.operations += 1
            if isinstance(result, Settled):
                self._saw_settled(operation, result, alone=len(operations) == 1)
                self._run.noted(kind, f"{result.generation_id} {result.charged_nano}")
            elif isinstance(operation, Renew):
                process.renewed_at = self._run.scheduler.time
            elif isinstance(operation, Expire):
                if result:
                    self._saw_expired()
            elif not isinstance(operation, _HOUSEKEEPING):
                self._run.noted(kind, type(result).__name__)
        self._until_look -= 1
        if self._until_look <= 0:
            self._until_look = _LOOKS_EACH
            self.look()

    def look(self) -> None:
        """I1 to I5, as far as one moment shows them."""
        self.looks += 1
        rows = self._connection.execute
        accounts = rows("SELECT name, kind, balance_nano, held_nano, floor_nano FROM accounts").fetchall()
        if total := sum(balance for _, _, balance, _, _ in accounts):
            self.failed(f"all balances together are {total}")
        opened = rows("SELECT generation_id, account, amount_nano, holder FROM holds WHERE state = 'open'").fetchall()
        held: dict[str, int] = {}
        for _, account, amount, _ in opened:
            held[account] = held.get(account, 0) + amount
        for name, kind, balance, account_held, floor in accounts:
            if account_held != held.get(name, 0):
                self.failed(f"{name} has {account_held} held, its open holds are {held.get(name, 0)}")
            if kind == "owner" and name != CORRECTED and balance - account_held < floor:
                self.failed(f"{name} is below its floor: {balance} - {account_held} < {floor}")
        for generation, _, _, holder in opened:
            self._look_at_hold(generation, holder)
        for process in self._run.processes.values():
            self._look_at_lease(process)

    def _look_at_hold(self, generation: str, holder: str) -> None:
        """A hold stays for a lease and a sweep after its process has died, and for a sweep after its request has ended."""
        run = self._run
        process, lease_s, now = run.holders.get(holder), run.lease_s, run.scheduler.time
        if process is None:
            self.failed(f"nobody answers for the hold of {generation}")
            return
        quiet_s = now - run.disturbed_until()
        if not process.alive:
            if min(quiet_s, now - process.died_at) > run.patience_s + lease_s:
                self.failed(
                    f"the hold of {generation} is open {now - process.died_at:.0f} s after its process has died"
                )
        elif (request := run.ended.get(generation)) and min(quiet_s, now - request.ended_at) > run.patience_s:
            self.failed(
                f"the hold of {generation} ({request.plan.name}) is open {now - request.ended_at:.0f} s after its request"
                " has ended"
            )

    def _look_at_lease(self, process: "Process") -> None:
        """A process that works says in time that it lives."""
        run = self._run
        silent_s = run.scheduler.time - max(process.renewed_at, run.disturbed_until())
        if process.serving and not process.loop.paused and silent_s > run.lease_s + run.patience_s:
            self.failed(f"{process.name} has not renewed its lease for {silent_s:.0f} s")

    def _saw_settled(self, operation: Operation, result: Settled, *, alone: bool) -> None:
        assert isinstance(operation, Settlement)
        before = self.settled.setdefault(result.generation_id, result.charged_nano)
        if before != result.charged_nano:
            self.failed(f"{result.generation_id} was charged {before}, and now {result.charged_nano}")
        if result.repeated:
            return
        if result.charged_nano:
            self.charged.append((result.generation_id, operation.account, result.charged_nano))
        if result.charged_nano < result.cost_nano and alone:
            query = "SELECT balance_nano - held_nano - floor_nano FROM accounts WHERE name = ?"
            row = self._connection.execute(query, (operation.account,)).fetchone()
            if row is not None and row[0] > 0:
                self.failed(f"{result.generation_id} is charged too little, though {row[0]} is left")

    def _saw_expired(self) -> None:
        """F20, F41: only the holds of processes that have not renewed their lease for so long expire.

        Not seen as wrong, and told in docs/simulation.md: what a sweep ends that had begun when the clock was set.
        """
        run = self._run
        slow_s = 0.2 + 20 * run.character.slow_s
        unaware = run.clock.set_at >= run.scheduler.time - slow_s
        for generation, holder in self._connection.execute(
            "SELECT generation_id, holder FROM holds WHERE state = 'expired'"
        ).fetchall():
            if generation in self._expired:
                continue
            self._expired.add(generation)
            process = run.holders.get(holder)
            since_s = float("inf") if process is None else run.scheduler.time - process.renewed_at
            if process is not None and process.alive and not unaware and since_s < run.lease_s - _SMALL_STEP_S:
                self.failed(
                    f"the hold of {generation} has expired, though {process.name} renewed its lease {since_s:.1f} s ago"
                )
