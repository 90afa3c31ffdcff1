"""The ledger in PostgreSQL: one transaction a batch, under one write lock, four round trips.

The lock is not kept while a disk or a standby is waited for: the transaction is committed without that, and what has to be
durable is waited for right afterwards, by a transaction that does nothing else. Its place in the log is behind the batch's
and behind those that the batch has read, so what it waits for is all of them. Batches of other processes go on meanwhile,
and one write to the disk serves several.

Nobody waits longer than `_DEADLINE_S` (F14). A transaction that is known not to be committed is tried again within that
time. When the answer to a COMMIT is lost nobody knows, so nothing is tried blindly: `StoreUnavailable` makes each of its
operations be sent again under its own id, and the ledger looks whether it has it (F15).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import asyncpg

from xrouter.errors import InternalError, StoreUnavailable, XRouterError
from xrouter.ledger.operations import Operation, Result
from xrouter.ledger.pg_batch import WRITE_LOCK, apply_batch
from xrouter.store.engine import reason
from xrouter.store.ledger import LostRace
from xrouter.store.pg_servers import FAILURES, LOST, PgServers
from xrouter.store.pg_session import PgLink, PgSession

_log = logging.getLogger(__name__)
_DEADLINE_S: Final = 1.1
_ENDING_S: Final = 0.05  # what a batch that is given up has to notice that its connection is gone
_ATTEMPTS: Final = 3
_RETRY_AFTER_S: Final = 1.0
# For this transaction only: a pooler gives the same process of the server to others. The lock is waited for as long as a
# client can wait; a process that is stopped in the middle keeps it no longer than that from the others.
_BEGIN: Final = (
    "BEGIN; SET LOCAL lock_timeout = 800; SET LOCAL statement_timeout = 1000;"
    " SET LOCAL idle_in_transaction_session_timeout = 1000; SET LOCAL synchronous_commit = off; " + WRITE_LOCK
)
# In one message. A transaction that has written nothing waits for no disk and no standby, so the second one writes. No
# time-out ends the wait for a standby: the server would then answer as if the standby had it.
_COMMIT_AND_WAIT: Final = (
    "COMMIT; BEGIN; SET LOCAL synchronous_commit = on; SELECT pg_logical_emit_message(true, 'xrouter', '');"
    " SET LOCAL statement_timeout = 0; COMMIT"
)
_AGAIN: Final = (LostRace, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
# The server refuses this connection, or all: a connection to another one may do better.
_ELSEWHERE: Final = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.OperatorInterventionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    *LOST,
)
_DATA: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
)  # one operation is at fault, not the store


class _CommitUnknown(Exception):
    """The connection broke after COMMIT was sent and before it was known to be durable."""


class PgBooks:
    """`trace` is called with each statement before it is sent: for tests that stop the process between two of them."""

    def __init__(
        self, servers: PgServers, now: Callable[[], float], trace: Callable[[str], object] | None = None
    ) -> None:
        self._now = now
        self._link = PgLink(servers, trace)
        self._seen_prices: set[str] = set()

    def commit(self, operations: list[Operation]) -> "asyncio.Task[list[Result | XRouterError]]":
        return asyncio.create_task(self._commit_in_time(operations), name="ledger batch")

    async def _commit_in_time(self, operations: list[Operation]) -> list[Result | XRouterError]:
        deadline = asyncio.get_running_loop().time() + _DEADLINE_S
        work = asyncio.create_task(self._commit(operations, deadline), name="ledger transaction")
        done, _ = await asyncio.wait((work,), timeout=_DEADLINE_S)
        if not done:
            # Not cancelled while it talks to the server: asyncpg would ask the server to cancel as well, and a COMMIT that
            # waits for its standby would then be done without it.
            self._link.drop()
            done, _ = await asyncio.wait((work,), timeout=_ENDING_S)
        if not done:
            work.cancel()
            await asyncio.wait((work,))
        if work.cancelled():
            raise StoreUnavailable(retry_after_s=_RETRY_AFTER_S, detail="ledger: no answer in time")
        return work.result()

    async def aclose(self) -> None:
        await self._link.aclose()

    async def _commit(self, operations: list[Operation], deadline: float) -> list[Result | XRouterError]:
        try:
            return await self._attempts(operations, deadline)
        except Exception as error:
            if isinstance(error, (*FAILURES, LostRace, _CommitUnknown)) and not isinstance(error, _DATA):
                raise StoreUnavailable(retry_after_s=_RETRY_AFTER_S, detail=f"ledger: {reason(error)}") from error
            # An operation has met a case that its rules do not know. It must not take the others of its batch with it.
            if len(operations) > 1:
                return [result for operation in operations for result in await self._commit([operation], deadline)]
            return [InternalError(detail=f"ledger: {type(error).__name__}: {error}")]

    async def _attempts(self, operations: list[Operation], deadline: float) -> list[Result | XRouterError]:
        for attempt in range(1, _ATTEMPTS + 1):
            session = await self._link.session()
            try:
                return await self._transaction(session, operations)
            except (*_AGAIN, *_ELSEWHERE) as error:
                if attempt == _ATTEMPTS or asyncio.get_running_loop().time() >= deadline:
                    raise
                _log.info("a batch of the ledger is tried again: %s", reason(error))
        raise AssertionError("the last attempt returns or raises")

    async def _transaction(self, session: PgSession, operations: list[Operation]) -> list[Result | XRouterError]:
        """Raises _CommitUnknown; after any other error nothing is committed."""
        try:
            await session.run(_BEGIN)
            book, results = await apply_batch(session, operations, int(self._now() * 1e6), self._seen_prices)
        except BaseException as error:
            self._seen_prices.clear()
            await self._roll_back(session, error)
            raise
        try:
            await session.run(_COMMIT_AND_WAIT if any(operation.durable for operation in operations) else "COMMIT")
        except BaseException as error:
            self._seen_prices.clear()
            self._link.drop()
            if isinstance(error, _AGAIN):
                raise
            raise _CommitUnknown(f"commit unknown: {error}") from error
        book.stored()
        return results

    async def _roll_back(self, session: PgSession, error: BaseException) -> None:
        """So that the connection can be used again, where it can."""
        if isinstance(error, _ELSEWHERE) or not isinstance(error, Exception) or not session.is_open:
            self._link.drop()
            return
        try:
            await session.run("ROLLBACK")
        except FAILURES:
            self._link.drop()
