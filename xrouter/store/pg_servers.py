"""Connecting to PostgreSQL: one server, several of which one takes writes, or a pooler before them.

A URL is what libpq reads (its documentation, section "Connection URIs"): `postgresql://user:password@host:5432,host2:5432/db`,
with `sslmode`, `sslrootcert`, `target_session_attrs` and the like after `?`, as far as asyncpg knows them.
"""

import asyncio
from typing import Final, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CONNECT_TIMEOUT_S: Final = 5.0
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
# asyncpg raises InternalClientError too for a connection of which the server has just taken leave.
LOST: Final = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
FAILURES: Final = (asyncpg.PostgresError, *LOST, TimeoutError)


class PgServers:
    """The servers of one database. Raises ValueError for a URL that names none; its message does not repeat the URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        user, at, hosts = parts.netloc.rpartition("@")
        query = parse_qs(parts.query)
        self.database = unquote(parts.path[1:])
        if parts.scheme != "postgresql" or not self.database or not (hosts or "host" in query) or "@" in parts.path:
            raise ValueError("a store is written postgresql://user:password@host/database")
        # One that takes no writes is of no use here: after a failover the old primary may be back as a standby.
        settings = parts.query if "target_session_attrs" in query else f"{parts.query}&target_session_attrs=read-write"
        self.files = {name: query[name][0] for name in _FILES if name in query}
        tail = f"{parts.path}?{settings.lstrip('&')}"
        self._urls = [f"postgresql://{user}{at}{host}{tail}" for host in hosts.split(",")]
        self.description = f"postgresql://{user.partition(':')[0]}{at}{hosts or query['host'][0]}/{self.database}"

    async def connect(self, *, answer_timeout_s: float | None = None) -> Connection:
        """A connection to the server that takes writes; each statement on it gets so long. Raises one of `FAILURES`.

        All are tried at once: a server that is frozen or cut off holds up nobody while another one answers.
        """
        attempts = {
            asyncio.create_task(_connect(url, answer_timeout_s), name="connecting to PostgreSQL") for url in self._urls
        }
        failures: list[BaseException] = []
        try:
            while attempts:
                done, attempts = await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    if (failure := attempt.exception()) is None:
                        attempts |= done - {attempt}
                        return attempt.result()
                    failures.append(failure)
        finally:
            for attempt in attempts:
                attempt.cancel()
                attempt.add_done_callback(_discard)
        raise failures[0]


async def _connect(url: str, answer_timeout_s: float | None) -> Connection:
    # asyncpg keeps no prepared statement: a pooler may hand each transaction to another process of the server. PgSession
    # prepares for itself where there is none.
    return await asyncpg.connect(
        url, timeout=CONNECT_TIMEOUT_S, command_timeout=answer_timeout_s, statement_cache_size=0
    )


def _discard(attempt: "asyncio.Task[Connection]") -> None:
    """Another server was faster, or nobody waits any more."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()
