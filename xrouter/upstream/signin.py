"""Signing requests to an upstream: a fixed header, or a short-lived token that is fetched, kept and renewed.

The provider knows what to ask and how to read the answer (`TokenFlow`, sans-IO); this file knows when: one fetch for any
burst of callers, renewal before the end of life, a refused token replaced once, no caller able to cancel the fetch that
others wait for.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from xrouter.upstream.base import Headers, UpstreamAnswer, UpstreamRequest


@dataclass(frozen=True, slots=True)
class Token:
    """`lifetime_s`: from the moment of the answer. `renew_before_s`: how long before the end a new one is fetched."""

    value: str
    lifetime_s: float
    renew_before_s: float


@runtime_checkable
class TokenFlow(Protocol):
    """How one provider gives tokens."""

    def request(self) -> UpstreamRequest: ...

    def token(self, answer: UpstreamAnswer) -> Token:
        """Raises UpstreamAuthError (a configuration error: not retried) or another UpstreamError."""

    def headers(self, token: str) -> Headers:
        """The headers that carry `token`."""


class SignIn(Protocol):
    async def headers(self) -> Headers:
        """The headers that sign a request now. Raises UpstreamAuthError or another UpstreamError."""

    def refused(self, signed_with: Headers) -> bool:
        """The upstream answered 401 to a request signed so. True if trying once more may help."""

    def accepted(self, signed_with: Headers) -> None:
        """After `refused`: the try once more, signed so, was not answered with 401."""


class FixedSignIn:
    """Headers that never change: an API key, a static token, or nothing."""

    def __init__(self, headers: Headers = ()) -> None:
        self._headers = headers

    async def headers(self) -> Headers:
        return self._headers

    def refused(self, signed_with: Headers) -> bool:
        return False

    def accepted(self, signed_with: Headers) -> None:
        """Nothing is kept of it."""


Send = Callable[[UpstreamRequest], Awaitable[UpstreamAnswer]]
