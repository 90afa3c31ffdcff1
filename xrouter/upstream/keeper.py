"""When a short-lived token is fetched, kept, renewed and replaced; how it is asked for is the provider's `TokenFlow`."""

import asyncio
import copy
from dataclasses import dataclass

from xrouter.errors import ShuttingDown, UpstreamProtocolError, XRouterError
from xrouter.upstream.base import Headers
from xrouter.upstream.signin import Send, TokenFlow
from xrouter.world import World

FAILURE_KEPT_S = 1.0
"""A failed fetch answers everyone who asks within this: a burst with wrong credentials makes one call, not one each."""

REPLACED_AT_MOST_EVERY_S = 1.0
"""An upstream that refuses every token it is given costs one fetch in this time, not one for each request."""


@dataclass(frozen=True, slots=True)
class _Held:
    value: str
    headers: Headers
    renew_at: float  # monotonic
    expires_at: float  # monotonic


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception
    until: float  # monotonic


class TokenKeeper:
    """A `SignIn` over a `TokenFlow`. One event loop; one keeper for each credential.

    The fetch is a task of the keeper's own: its callers wait for it, and none of them can cancel it for the others.
    """

    def __init__(self, flow: TokenFlow, fetch: Send, world: World) -> None:
        """`fetch` sends a request as it is (the flow's requests carry their own credential) and reads the whole answer."""
        self._flow = flow
        self._fetch = fetch
        self._world = world
        self._held: _Held | None = None
        self._failure: _Failure | None = None
        self._task: asyncio.Task[None] | None = None
        self._refused_value: str | None = None
        self._refused_at = float("-inf")
        self._closed = False

    async def headers(self) -> Headers:
        now = self._world.monotonic()
        held = self._held
        if held is not None and now < held.expires_at:
            if now >= held.renew_at and not self._failed_lately(now) and not self._closed:
                self._begin()
            return held.headers
        self._held = None
        while True:  # more than once only if the new token is refused before its waiters have woken
            if self._failure is not None and self._failed_lately(self._world.monotonic()):
                raise _copy(self._failure.error)
            await asyncio.wait([self._begin()])
            if (fetched := self._current()) is not None:
                return fetched

    def refused(self, signed_with: Headers) -> bool:
        """See `SignIn`. A token that has already been replaced is not replaced again, however late its 401 arrives."""
        held = self._held
        if held is None or held.headers != signed_with:
            return True  # there is another one by now, or one is on its way
        now = self._world.monotonic()
        if held.value == self._refused_value or now - self._refused_at < REPLACED_AT_MOST_EVERY_S:
            return False  # the provider gave the same one again, or its new ones are refused too: it is not the token
        self._refused_value = held.value
        self._refused_at = now
        self._held = None
        return True

    def accepted(self, signed_with: Headers) -> None:
        """See `SignIn`. It was the token, then: the next refusal is news, however soon it comes."""
        if self._held is not None and self._held.headers == signed_with:
            self._refused_value = None
            self._refused_at = float("-inf")

    async def aclose(self) -> None:
        """Stop the fetch; its waiters get ShuttingDown."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _begin(self) -> "asyncio.Task[None]":
        """The fetch under way, begun if there is none."""
        if self._closed:
            raise ShuttingDown
        if self._task is None:
            self._task = asyncio.create_task(self._renew(), name="xrouter token fetch")
        return self._task

    async def _renew(self) -> None:
        """Fetch one token. What goes wrong is kept, and raised to those who wait; never a retry from here."""
        try:
            token = self._flow.token(await self._fetch(self._flow.request()))
            if token.lifetime_s <= 0:
                raise UpstreamProtocolError("The upstream gave a token that has already expired")
        except Exception as error:
            self._failure = _Failure(error, self._world.monotonic() + FAILURE_KEPT_S)
        else:
            # A token that lives shorter than its margin would be renewed from its first moment on: half its life instead.
            expires_at = self._world.monotonic() + token.lifetime_s
            margin_s = token.renew_before_s if token.renew_before_s < token.lifetime_s else token.lifetime_s / 2
            renew_at = expires_at - margin_s
            self._held = _Held(token.value, self._flow.headers(token.value), renew_at, expires_at)
            self._failure = None
        finally:
            self._task = None

    def _current(self) -> Headers | None:
        return None if self._held is None else self._held.headers

    def _failed_lately(self, now: float) -> bool:
        return self._failure is not None and now < self._failure.until


def _copy(error: Exception) -> Exception:
    """One for each caller: a shared exception would collect every caller's traceback."""
    return copy.copy(error).with_traceback(None) if isinstance(error, XRouterError) else error
