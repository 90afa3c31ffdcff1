"""One configured upstream as the dispatch uses it: signed, paced calls over the engine that its settings name."""

from collections.abc import Awaitable
from dataclasses import fields

from xrouter.config.settings import UpstreamSettings
from xrouter.errors import InternalError
from xrouter.upstream.base import Engine, PoolStats, UpstreamAnswer, UpstreamRequest, UpstreamResponse, read_whole
from xrouter.upstream.gate import Gate
from xrouter.upstream.http1 import Http1Engine
from xrouter.upstream.keeper import TokenKeeper
from xrouter.upstream.pace import Pace
from xrouter.upstream.signin import SignIn, TokenFlow
from xrouter.upstream.target import Origin, parse_target
from xrouter.upstream.tls import tls_context
from xrouter.world import World

FETCH_LIMIT_BYTES = 64 * 1024 * 1024
_TOKEN_LIMIT_BYTES = 1024 * 1024


class Caller:
    """`gate` bounds the simultaneous calls: hold a place of it from before `open` until the answer is closed.

    `open` and `fetch` do not take a place themselves, since only their caller knows for which account it would wait and
    when the call is over; the requests for tokens need none.
    """

    def __init__(
        self,
        name: str,
        settings: UpstreamSettings,
        sign_in: SignIn | TokenFlow,
        default_concurrency: int | None,
        world: World,
    ) -> None:
        """No I/O but reading the TLS files. Raises ValueError for settings that cannot work."""
        places = settings.concurrency if settings.concurrency is not None else default_concurrency
        self.name = name
        self.gate = Gate(name, places, settings.queue_s)
        self._settings = settings
        self._world = world
        self._origins = configured_origins(settings)
        self._engine = build_engine(settings)
        self._paces: dict[tuple[str, float], Pace] = {}
        self._keeper: TokenKeeper | None = None
        self._sign_in: SignIn
        if isinstance(sign_in, TokenFlow):
            self._sign_in = self._keeper = TokenKeeper(sign_in, self._fetch_token, world)
        else:
            self._sign_in = sign_in

    async def open(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send `request` signed. A 401 to a token that can be replaced is answered with one more try.

        Raises what `Engine.send`, `SignIn.headers` and `Pace.wait` raise.
        """
        if request.pace is not None:
            await self._keep_pace(request.pace)
        signature = await self._sign_in.headers()
        response = await self._send(request.with_headers(signature))
        if response.status != 401 or not self._sign_in.refused(signature):
            return response
        response.finish()
        await response.aclose()
        if request.pace is not None:
            await self._keep_pace(request.pace)
        signature = await self._sign_in.headers()
        response = await self._send(request.with_headers(signature))
        if response.status != 401:
            self._sign_in.accepted(signature)
        return response

    async def fetch(self, request: UpstreamRequest, limit: int = FETCH_LIMIT_BYTES) -> UpstreamAnswer:
        """As `open`, and the answer's body whole. Raises UpstreamProtocolError if it is longer than `limit` bytes."""
        return await read_whole(await self.open(request), limit)

    async def aclose(self) -> None:
        if self._keeper is not None:
            await self._keeper.aclose()
        await self._engine.aclose()

    def stats(self) -> PoolStats:
        return self._engine.stats()

    async def _fetch_token(self, request: UpstreamRequest) -> UpstreamAnswer:
        return await read_whole(await self._send(request), _TOKEN_LIMIT_BYTES)

    async def _keep_pace(self, wanted: tuple[str, float]) -> None:
        pace = self._paces.get(wanted)
        if pace is None:
            kind, rate = wanted
            pace = self._paces[wanted] = Pace(f"{self.name} {kind}", rate, self._settings.queue_s, self._world)
        await pace.wait()

    def _send(self, request: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        """The one way out: every request that may carry a credential passes this check (fault matrix F45)."""
        origin = parse_target(request.url).origin
        if origin not in self._origins:
            raise InternalError(
                detail=f"{self.name}: a request to {origin}, which its settings do not name, was stopped"
            )
        return self._engine.send(request)


def configured_origins(settings: UpstreamSettings) -> frozenset[Origin]:
    """Where this upstream's credentials may go: the origins of `base_url` and of a provider's own `…_url` settings.

    Raises ValueError for a URL that is not one.
    """
    origins = set()
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name.endswith("_url") and isinstance(value, str) and value:
            try:
                origins.add(parse_target(value).origin)
            except ValueError as error:
                raise ValueError(f"{field.name}: {error}") from error
    return frozenset(origins)


def build_engine(settings: UpstreamSettings) -> Engine:
    """The engine that the settings name; a proxy implies httpx2. Raises ValueError."""
    if settings.proxy is not None and settings.engine == "http1":
        raise ValueError("engine: http1 does not go through a proxy; leave `engine` out or set it to httpx2")
    tls = tls_context(settings.tls)
    if settings.engine == "httpx2" or settings.proxy is not None:
        from xrouter.upstream.httpx2_engine import Httpx2Engine  # only who uses it pays for its import

        return Httpx2Engine(
            timeouts=settings.timeouts, tls=tls, keep_alive_s=settings.keep_alive_s, proxy=settings.proxy
        )
    return Http1Engine(timeouts=settings.timeouts, tls=tls, keep_alive_s=settings.keep_alive_s)
