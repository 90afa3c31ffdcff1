"""Writers of one SQLite file that come while one is at work share the next transaction.

Each by himself would wait for SQLite's lock, which is asked for again from time to time and given to whoever asks at the
right moment, and for a disk's commit of his own: of sixty at once some wait for longer than any client should. No timer
makes a lone writer wait.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from xrouter.store.engine import writing

_T = TypeVar("_T")
Work = Callable[[AsyncConnection], Awaitable[_T]]
_MOST: Final = 32  # so that nobody else waits long for the lock


class Batches:
    """Of one engine. What has been asked for is carried out, whoever still waits for it; `aclose` waits for that."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: deque[tuple[Work[Any], asyncio.Future[Any]]] = deque()
        self._writer: asyncio.Task[None] | None = None

    async def run(self, work: Work[_T]) -> _T:
        """What `work` returns, once that is committed. Raises what it raises, and what the database does."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="batches of the store")
        return cast(_T, await asyncio.shield(future))

    async def aclose(self) -> None:
        while self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)

    async def _write(self) -> None:
        try:
            while self._waiting:
                size = min(len(self._waiting), _MOST)
                await self._commit([self._waiting.popleft() for _ in range(size)])
        finally:
            self._writer = None

    async def _commit(self, batch: list[tuple[Work[Any], asyncio.Future[Any]]]) -> None:
        try:
            async with writing(self._engine) as connection:
                results = [await work(connection) for work, _ in batch]
        except Exception as error:  # whatever it is, nobody who waits may wait for ever
            # A row that the database refuses is its own writer's business; a database that is away is everybody's.
            if len(batch) > 1 and isinstance(error, SQLAlchemyError) and not isinstance(error, OperationalError):
                for one in batch:
                    await self._commit([one])
                return
            for _, future in batch:
                if not future.cancelled():
                    future.set_exception(error)
                    future.exception()  # a waiter who has gone leaves no complaint about an error that nobody saw
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.cancelled():
                future.set_result(result)
