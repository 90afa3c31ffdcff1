"""The simulated database and disk: the production `SqliteBooks` and `Journal` on real files, and everything that goes wrong.

A commit may fail before anything happens, be done while its answer is lost, be delivered twice, or meet an outage. The disk
of the journal may be full. A process that is killed may have written half a line.
"""

import asyncio
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from xrouter.errors import InternalError, XRouterError
from xrouter.ledger.books import SqliteBooks
from xrouter.ledger.journal import Journal
from xrouter.ledger.operations import Operation, Result, Transfer
from xrouter.ledger.worker import Worker

if TYPE_CHECKING:
    from simulation.sim_process import Process

_TELLS_LOST = 50  # one commit in so many is done, and its answer lost


class Seen(Protocol):
    """Who is told of each commit, while nothing else happens."""

    def committed(
        self, process: "Process", operations: list[Operation], results: list[Result | XRouterError]
    ) -> None: ...

    def failed(self, problem: str) -> None: ...


class Store:
    """The one database, the one disk."""

    def __init__(self, path: Path, chance: random.Random, time: Callable[[], float]) -> None:
        self.path = path
        self.journals = path.with_name(path.name + ".journal")
        self.journals.mkdir()
        self.chance = chance
        self.time = time
        self.seen: Seen
        self.faulty = False  # whether single commits fail
        self.away_until = float("-inf")  # monotonic: every commit fails until then
        self.full_until = float("-inf")  # and every write to the journal until then
        self.slow_s = 0.0  # the longest delay of an answer
        self.commits = 0
        self.files: dict[int, Journal] = {}  # open descriptors of journals, and whose process's they are

    def delay(self) -> float:
        return self.chance.random() * self.slow_s if self.slow_s else 0.0005

    def away(self) -> bool:
        return self.time() < self.away_until


class SimulatedWorker(Worker):
    """Its jobs are the loop's own, with their delays."""

    def run(self, work: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().run_in_executor(self, work, *arguments)  # type: ignore[arg-type]


class SimulatedBooks(SqliteBooks):
    """What the process sees of the store."""

    def __init__(self, store: Store, process: "Process", now: Callable[[], float]) -> None:
        super().__init__(store.path, now)
        self._worker = SimulatedWorker("ledger")
        self._store = store
        self._process = process
        self.failures = 0

    def _commit_guarded(self, operations: list[Operation]) -> list[Result | XRouterError]:
        try:
            results = super()._commit_guarded(operations)
        except XRouterError:
            self.failures += 1
            raise
        for operation, result in zip(operations, results, strict=True):
            if isinstance(result, InternalError):
                self._store.seen.failed(f"{operation} is refused: {result.detail}")
        return results

    def _commit(self, operations: list[Operation]) -> list[Result | XRouterError]:
        store, chance = self._store, self._store.chance
        if store.away() or (store.faulty and chance.random() < 1 / _TELLS_LOST):
            raise sqlite3.OperationalError("disk I/O error")
        results = super()._commit(operations)
        store.commits += 1
        store.seen.committed(self._process, operations, results)
        if store.faulty:
            fate = chance.random() * _TELLS_LOST
            if fate < 1:
                raise sqlite3.OperationalError("the answer is lost")
            if fate < 2 and all(_may_come_twice(operation) for operation in operations):
                results = super()._commit(operations)
                store.commits += 1
                store.seen.committed(self._process, operations, results)
        return results

    def exit(self) -> None:
        """The system closes the files of a process that has ended."""
        self._close()


class SimulatedJournal(Journal):
    """On the same disk."""

    def __init__(self, store: Store, name: str) -> None:
        super().__init__(store.journals, name)
        self._store = store

    def _append(self, line: bytes) -> None:
        if self._store.time() < self._store.full_until:
            raise OSError(28, "No space left on device")
        super()._append(line)

    def _open(self, path: Path, flags: int) -> int:
        descriptor = super()._open(path, flags)
        self._store.files[descriptor] = self
        return descriptor

    def tear(self, unwritten: list[tuple[Any, ...]]) -> None:
        """`unwritten`: the lines that were about to be written. The first one may be on the disk in part, or whole."""
        if self._descriptor is not None and unwritten and self._store.time() >= self._store.full_until:
            (line,) = unwritten[0]
            os.write(self._descriptor, line[: self._store.chance.randrange(len(line) + 1)])

    def exit(self) -> None:
        """The system closes what the process has left open, and so ends its locks."""
        for descriptor in [one for one, owner in self._store.files.items() if owner is self]:
            del self._store.files[descriptor]
            link = Path(f"/proc/self/fd/{descriptor}")  # its number may be another file's by now
            if link.is_symlink() and link.readlink().parent == self._store.journals:
                os.close(descriptor)
        self._descriptor = None


def _may_come_twice(operation: Operation) -> bool:
    """A transfer without a name of its own is two, if it is sent twice."""
    return not isinstance(operation, Transfer) or operation.idempotency_key is not None
