"""The fast engine: HTTP/1.1 on asyncio and httptools, pooled per origin. No task, queue, lock or timer per request.

Not here: proxies and HTTP/2 (`httpx2_engine`), a bound on simultaneous calls (`gate`), redirects (never followed, by either
engine: a redirected request would carry our credential to a host that nobody configured).
"""

import asyncio
import ssl

from xrouter.config.settings import Timeouts
from xrouter.errors import ShuttingDown, UpstreamUnreachable, XRouterError
from xrouter.upstream.base import Limits, PoolStats, UpstreamRequest
from xrouter.upstream.connection import Connection
from xrouter.upstream.dial import dial
from xrouter.upstream.exchange import Exchange
from xrouter.upstream.pool import Pool
from xrouter.upstream.request_head import encode_head
from xrouter.upstream.target import Origin, parse_target

STALE_S = 1.0
"""A kept connection that the upstream closes within this after our request was closed because it was idle: the close and
the request have passed each other on the way. Later than that the upstream has most likely begun to work, and asking twice
would be paid for twice."""


class Http1Engine:
    """An `Engine`."""

    def __init__(
        self,
        *,
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        keep_alive_s: float = 30.0,
        limits: Limits | None = None,
    ) -> None:
        """`tls` is needed for https only; its ALPN is set to HTTP/1.1, so give each engine its own."""
        self._timeouts = timeouts or Timeouts()
        self._limits = limits or Limits()
        self._tls = tls
        if tls is not None:
            tls.set_alpn_protocols(["http/1.1"])
        self._pool = Pool(keep_alive_s)
        self._closed = False

    async def send(self, request: UpstreamRequest) -> Exchange:
        if self._closed:
            raise ShuttingDown
        head = encode_head(request)
        origin = parse_target(request.url).origin
        total_at = asyncio.get_running_loop().time() + self._timeouts.total_s
        connection = self._pool.take(origin)
        kept = connection is not None
        while True:
            if connection is None:
                connection = await self._connect(origin, total_at)
            try:
                exchange = connection.start(head, request.body, total_at, request.method == "HEAD")
                if connection.writing:
                    await connection.write_body(exchange, request.body)
                await exchange.head()
            except XRouterError:
                if not kept or not self._stale(connection, request):
                    raise
                connection, kept = None, False
            else:
                return exchange

    async def _connect(self, origin: Origin, total_at: float) -> Connection:
        if origin.scheme == "https" and self._tls is None:
            raise ValueError("an https URL for an engine without TLS settings")
        loop = asyncio.get_running_loop()
        tls = self._tls if origin.scheme == "https" else None
        connection = await dial(
            origin,
            tls,
            lambda: Connection(self._pool, loop, origin, self._timeouts, self._limits),
            self._timeouts.connect_s,
            total_at,
        )
        self._pool.add(connection)
        if self._closed:
            connection.abort()
            raise ShuttingDown
        if connection.closed:
            raise UpstreamUnreachable(detail=f"{origin}: the connection was closed as soon as it was made")
        return connection

    def _stale(self, connection: Connection, request: UpstreamRequest) -> bool:
        """Whether a request that failed on a kept connection may be sent again (RFC 9112 section 9.3.1)."""
        if self._closed or connection.heard or not connection.hung_up:
            return False
        return request.idempotent or connection.loop.time() - connection.sent_at < STALE_S

    async def aclose(self) -> None:
        self._closed = True
        await self._pool.aclose()

    def stats(self) -> PoolStats:
        return self._pool.stats()
