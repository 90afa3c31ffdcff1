"""One connection that a process keeps to PostgreSQL for its ledger, made anew whenever it breaks."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from xrouter.store.pg_servers import Connection, PgServers

Trace: TypeAlias = Callable[[str], object]  # is called with each statement before it is sent


def _no_trace(sql: str) -> None:
    """Nobody looks on."""


class PgSession:
    """Statements on one connection, one at a time.

    `prepares`: whether a statement stays prepared after its first time. A pooler in transaction mode (PgBouncer) gives each
    transaction another process of the server, which knows no statement of the last one.
    """

    def __init__(self, connection: Connection, *, prepares: bool, trace: Trace | None = None) -> None:
        self._connection = connection
        self._trace: Trace = trace or _no_trace
        self._prepared: dict[str, PreparedStatement[asyncpg.Record]] | None = {} if prepares else None

    @classmethod
    async def open(cls, servers: PgServers, trace: Trace | None = None) -> "PgSession":
        """Raises one of `xrouter.store.pg_servers.FAILURES`.

        Whether a pooler is between is seen from the process that answers: it is the one that the connection began with only
        where there is none.
        """
        connection = await servers.connect()
        try:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
        except BaseException:
            connection.terminate()
            raise
        return cls(connection, prepares=pid == connection.get_server_pid(), trace=trace)

    @property
    def is_open(self) -> bool:
        return not self._connection.is_closed()

    async def row(self, sql: str, *values: object) -> Sequence[object]:
        """The first row that a statement answers with; nothing from one that answers with no rows."""
        self._trace(sql)
        if self._prepared is None:
            return tuple(await self._connection.fetchrow(sql, *values) or ())
        statement = self._prepared.get(sql)
        if statement is None:
            statement = self._prepared[sql] = await self._connection.prepare(sql)
        return tuple(await statement.fetchrow(*values) or ())

    async def run(self, sql: str) -> None:
        """Statements without values, in one round trip."""
        self._trace(sql)
        await self._connection.execute(sql)

    def terminate(self) -> None:
        """At once and without a word to the server: not even a request to cancel what it is doing."""
        self._connection.terminate()


class PgLink:
    """The session of the moment. Connecting may take longer than any one who asks for it can wait: it goes on meanwhile."""

    def __init__(self, servers: PgServers, trace: Trace | None = None) -> None:
        self._servers = servers
        self._trace = trace
        self._session: PgSession | None = None
        self._connecting: asyncio.Task[PgSession] | None = None

    async def session(self) -> PgSession:
        """Raises one of `xrouter.store.pg_servers.FAILURES`. Cancelled, it leaves the connecting to the next."""
        if self._session is not None and self._session.is_open:
            return self._session
        if self._connecting is None:
            self._connecting = asyncio.create_task(
                PgSession.open(self._servers, self._trace), name="connecting the ledger"
            )
        connecting = self._connecting
        try:
            self._session = await asyncio.shield(connecting)
        finally:
            if connecting.done():
                self._connecting = None
        return self._session

    def drop(self) -> None:
        """Use this connection no more: it is broken, or what it leads to takes no writes."""
        if self._session is not None:
            self._session.terminate()
            self._session = None

    async def aclose(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self.drop()
