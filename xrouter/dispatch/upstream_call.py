"""One call at one target with one credential: from the queue for its place to the end of its answer, as events."""

import asyncio
from collections.abc import Sequence
from typing import cast

from xrouter.context import AttemptReason, RequestContext, Target
from xrouter.errors import UpstreamError
from xrouter.events import Event
from xrouter.providers.base import Exchange, Purpose
from xrouter.providers.upstreams import Upstream
from xrouter.upstream.base import UpstreamRequest, UpstreamResponse, read_whole
from xrouter.upstream.caller import Caller
from xrouter.upstream.credentials import Credential
from xrouter.world import World

_ERROR_BODY_BYTES = 1024 * 1024
_FEED_BYTES = 16 * 1024  # at a time: parsed events take some thirty times their bytes, until the client has taken them
_TAIL_S = 1.0  # how long an upstream that has said everything may take to end its answer


class UpstreamCall:
    """`events()` until they are none, then `end()`; `aclose()` always. Used once."""

    __slots__ = (
        "_account", "_backlog", "_placed", "_response", "_spare", "_world", "answering", "began",
        "called", "credential", "ended", "first_event_s", "noted", "reason", "target", "translator",
    )  # fmt: skip

    def __init__(
        self,
        ctx: RequestContext,
        target: Target,
        upstream: Upstream,
        credential: Credential,
        purpose: Purpose,
        reason: AttemptReason,
        began: float,
        world: World,
        *,
        spare: bool = False,
    ) -> None:
        """`spare`: the place is its maker's business, as a shadow's is.

        Raises what the provider's `translator` raises: an UpstreamError for a route that cannot work.
        """
        self.target = target
        self.credential = credential
        self.reason = reason
        self.translator = upstream.provider.translator(ctx.call, target, purpose)
        self.began = began  # monotonic
        self.called = began  # monotonic: when our own queue was behind it
        self.first_event_s: float | None = None  # since `called`; the reader sets it
        self.noted = False  # how it went is written down; the relay's
        self.answering = False  # a good answer has begun that has not ended
        self._world = world
        self._account = ctx.principal.account
        self._spare = spare
        self._placed = False
        self._response: UpstreamResponse | None = None
        self._backlog: list[bytes] = []  # of a large piece, what has not been fed yet; the next one is the last
        self.ended = False  # the last events have been given

    async def events(self) -> Sequence[Event]:
        """More of the answer; nothing once it is whole. Raises XRouterError for what the upstream does wrong."""
        translator = self.translator
        response = self._response or await self._open()
        while not self.ended:
            if translator.complete:
                self.ended = True
                return translator.finish()
            if self._backlog:
                data = self._backlog.pop()
            else:
                piece = response.arrived()
                data = await anext(aiter(response), b"") if piece is None else piece
                if not data:
                    self.ended = True
                    return translator.finish()
                if len(data) > _FEED_BYTES:
                    self._backlog = [data[at : at + _FEED_BYTES] for at in range(0, len(data), _FEED_BYTES)][::-1]
                    continue
            if events := translator.feed(data):
                return events
        return ()

    async def end(self) -> None:
        """The answer has been passed on whole.

        The upstream frees its own place only when its answer ends, so ours is kept until then, a second at most.
        """
        response = self._response
        assert response is not None
        if self.translator.complete:
            try:
                while tail := response.arrived():
                    pass
                if tail is None:
                    async with asyncio.timeout(_TAIL_S):
                        async for _ in response:
                            pass
            except (UpstreamError, TimeoutError):
                pass  # the answer was complete: how its connection ends is nobody's loss
        response.finish()

    async def aclose(self) -> None:
        """Give the connection and the place back. Idempotent; does not wait for the network."""
        self.answering = False
        try:
            if self._response is not None:
                await self._response.aclose()
        finally:
            if self._placed:
                self._placed = False
                self.credential.caller.gate.release()

    async def _open(self) -> UpstreamResponse:
        """Send the call, after the requests that have to go before it."""
        caller, translator = self.credential.caller, self.translator
        if not self._spare:
            if not caller.gate.take():
                await caller.gate.acquire(self._account)
            self._placed = True
            self.called = self._world.monotonic()
        request = translator.exchange()
        if not isinstance(request, UpstreamRequest):
            request = await _after_others(request, caller)
        response = self._response = await caller.open(request)
        if not 200 <= response.status < 300:
            raise translator.error(await read_whole(response, _ERROR_BODY_BYTES))
        translator.started(response.status, response.headers)
        self.answering = True
        return response


async def _after_others(exchange: Exchange, caller: Caller) -> UpstreamRequest:
    """The call itself, once the requests that go before it are answered."""
    try:
        request = next(exchange)
        while True:
            request = exchange.send(await caller.fetch(request))
    except StopIteration as done:
        return cast(UpstreamRequest, done.value)
