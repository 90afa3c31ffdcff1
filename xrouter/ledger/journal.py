"""Settlements that the store could not take, kept in a file until it can (F13).

One file a process, one line of JSON a settlement, on the disk before the client's last byte leaves. The process holds a lock
on the file that it writes, so another that gets the lock knows that nobody writes there any more, and settles what it holds.
A living process sets its file aside in the same way and begins another: what it adds while the store comes back is the
next round's. Settling is idempotent: a file that is read twice, because its reader died before removing it, charges nothing
twice.
"""

import asyncio
import errno
import fcntl
import itertools
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from xrouter.errors import StoreUnavailable
from xrouter.ledger.operations import Settlement

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_SUFFIX: Final = ".settlements"
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Settlement).decode


@dataclass(frozen=True, slots=True)
class _Page:
    """What one file holds. `whole`: every line could be read."""

    settlements: list[Settlement]
    path: Path
    descriptor: int
    whole: bool


class Journal:
    """`folder`: where the files of all processes of one store are. `name`: this process's own, and no other's."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._path = folder / f"{name}{_SUFFIX}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._descriptor: int | None = None
        self._size = 0
        self._asides = itertools.count(1)

    async def add(self, settlement: Settlement) -> None:
        """Durable when it returns. Raises StoreUnavailable."""
        await self._run(self._append, _encode(settlement) + b"\n")

    async def recover(self, settle: Callable[[Settlement], Awaitable[object]]) -> int:
        """Settle what this process has journaled, and dead ones; returns how many settlements.

        All of a file at once, so that they go in batches. Raises StoreUnavailable, also from `settle`: what was not settled
        is still there.
        """
        total = 0
        for path in await self._run(self._files):
            page = await self._run(self._read, path)
            if page is None:
                continue
            settled = False
            try:
                await asyncio.gather(*map(settle, page.settlements))
                settled = True
            finally:
                await self._run(self._put_away, page, settled)
            total += len(page.settlements)
        return total

    async def aclose(self) -> None:
        await self._run(self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """File work happens in a thread of its own, in order."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except OSError as error:
            raise StoreUnavailable(detail=f"journal: {error.strerror}") from error

    def _append(self, line: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = self._create()
        try:
            if os.write(self._descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._size)  # a half line would spoil the one after it
            raise
        self._size += len(line)

    def _create(self) -> int:
        """Our file, which has its name only once it is locked: others would take it for a dead process's, and remove it."""
        nameless = self._path.with_suffix(".new")
        descriptor = self._open(nameless, os.O_CREAT)
        try:
            nameless.rename(self._path)
            _sync_folder(self._folder)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _files(self) -> list[Path]:
        """Those that nobody writes to, as far as their names tell."""
        if self._descriptor is not None and self._size:
            self._let_go()
            # Another name: who has found the old one and gets its lock only now must find the old file there.
            self._path = self._folder / f"{self._name}-{next(self._asides)}{_SUFFIX}"
        return sorted(path for path in self._folder.glob(f"*{_SUFFIX}") if path != self._path)

    def _read(self, path: Path) -> _Page | None:
        """What there is to settle in a file; None if that is its process's own business."""
        try:
            descriptor = self._open(path, 0)
        except (BlockingIOError, FileNotFoundError):
            return None  # its process lives, or another has just settled it
        try:
            return self._page(path, descriptor)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, FileNotFoundError):
                return None  # another has settled it between our opening the file and our locking it
            raise

    def _page(self, path: Path, descriptor: int) -> _Page:
        settlements, whole = [], True
        for line in path.read_bytes().split(b"\n")[:-1]:  # what follows the last line feed was never acknowledged
            try:
                settlements.append(_decode(line))
            except msgspec.DecodeError as error:
                whole = False
                _log.error("a line of the journal %s cannot be read: %s", path.name, error)
        return _Page(settlements, path, descriptor, whole)

    def _put_away(self, page: _Page, settled: bool) -> None:
        if settled and page.whole:
            page.path.unlink(missing_ok=True)
        elif settled:
            page.path.rename(page.path.with_suffix(".unreadable"))  # kept for the operator, read no more
        os.close(page.descriptor)

    def _open(self, path: Path, flags: int) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            if self._size == 0:
                self._path.unlink(missing_ok=True)
            self._let_go()

    def _let_go(self) -> None:
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor, self._size = None, 0


def _sync_folder(folder: Path) -> None:
    """A new file's name is on the disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
