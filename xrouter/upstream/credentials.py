"""The credentials of one upstream, each with its own sign-in and its own gate: which one takes a call, and which rest.

A provider counts simultaneous calls, limits and packages of tokens by credential, so a fault of that kind says nothing of
the others: the credential rests and the next one takes the same call. A lone credential never rests, since nobody could
take its place: what becomes of its calls is the business of the upstream's health.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from xrouter.errors import UpstreamAuthError, UpstreamError, UpstreamQuotaExhausted
from xrouter.upstream.base import PoolStats
from xrouter.upstream.caller import Caller
from xrouter.world import World

REFUSED_REST_S: Final = 60.0  # after a 401 or 403; twice as long each time that it is refused again
_LONGEST_REFUSED_REST_S: Final = 3600.0
_LIMITED_REST_S: Final = 1.0  # after a 429 that does not say how long
_LONGEST_LIMITED_REST_S: Final = 60.0
_EVERY_MODEL: Final = ""


@dataclass(frozen=True, slots=True)
class Rest:
    until: float  # monotonic
    times: int  # how often in a row
    error: UpstreamError


@dataclass(slots=True, eq=False)
class Credential:
    """`index`: its place in the configuration's list, from 0; all that is ever said of it."""

    index: int
    caller: Caller
    rests: dict[str, Rest] = field(default_factory=dict)  # by the provider's model id; `_EVERY_MODEL` for all of them

    def rest(self, model: str, now: float) -> Rest | None:
        """Why it takes no call of `model` now; None if it does."""
        for name in (model, _EVERY_MODEL):
            rest = self.rests.get(name)
            if rest is not None and now < rest.until:
                return rest
        return None

    def rests_for_s(self, now: float) -> float:
        """The longest that any of its models is still left out; 0 if none is."""
        return max((rest.until - now for rest in self.rests.values() if rest.until > now), default=0.0)

    def resting(self, now: float) -> list[str]:
        """The models whose calls it does not take now; `*` stands for all of them."""
        return [model or "*" for model, rest in self.rests.items() if rest.until > now]


class Credentials:
    """One event loop. `choose` looks at every credential of the upstream: there are a few, never many."""

    def __init__(self, callers: Sequence[Caller], quota_rest_s: float, world: World) -> None:
        """`quota_rest_s`: how long one whose package is used up is left alone, in seconds."""
        self.all = tuple(Credential(index, caller) for index, caller in enumerate(callers))
        self._only = self.all[0] if len(self.all) == 1 else None
        self._quota_rest_s = quota_rest_s
        self._world = world

    @property
    def several(self) -> bool:
        return self._only is None

    def choose(self, model: str, conversation: str = "") -> Credential:
        """The one that takes a call of `model` now.

        A conversation stays with one credential, where the provider's prompt cache knows it; a call of none goes to the
        least busy. Whoever has a free place goes before whoever has a queue. Raises the last one's error if all rest.
        """
        if self._only is not None:
            return self._only
        now = self._world.monotonic()
        awake = [credential for credential in self.all if credential.rest(model, now) is None]
        if not awake:
            raise self._last_error(model, now)
        if conversation:
            awake.sort(key=lambda credential: _rank(conversation, credential.index))
        else:
            awake.sort(key=lambda credential: credential.caller.gate.active)
        free = (credential for credential in awake if credential.caller.gate.free)
        return next(free, None) or min(awake, key=lambda credential: credential.caller.gate.waiting)

    def blame(self, credential: Credential, model: str, error: UpstreamError) -> bool:
        """Send `credential` to rest if `error` is its own fault. Whether another one can take the same call now."""
        if self._only is not None:
            return False
        rest = self._rest(credential, model, error)
        if rest is None:
            return False
        name, rest_s, times = rest
        now = self._world.monotonic()
        credential.rests[name] = Rest(now + rest_s, times, error)
        return any(other.rest(model, now) is None for other in self.all)

    def served(self, credential: Credential, model: str) -> None:
        """It has taken a call of `model` well: what was held against it is over."""
        if credential.rests:
            credential.rests.pop(model, None)
            credential.rests.pop(_EVERY_MODEL, None)

    def stats(self) -> PoolStats:
        """Of the connections of all of them together."""
        total = PoolStats()
        for credential in self.all:
            stats = credential.caller.stats()
            total.idle += stats.idle
            total.active += stats.active
            total.opened += stats.opened
            total.reused += stats.reused
        return total

    @property
    def active(self) -> int:
        """Calls under way."""
        return sum(credential.caller.gate.active for credential in self.all)

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return sum(credential.caller.gate.waiting for credential in self.all)

    async def aclose(self) -> None:
        for credential in self.all:
            await credential.caller.aclose()

    def _rest(self, credential: Credential, model: str, error: UpstreamError) -> tuple[str, float, int] | None:
        """For which model, for how many seconds, for which time in a row; None for a fault that is not the credential's.

        A refusal of the key itself is one of every model. Packages of tokens, rights and limits go by model.
        """
        name = _EVERY_MODEL if isinstance(error, UpstreamAuthError) else model
        before = credential.rests.get(name)
        times = before.times + 1 if before is not None else 1
        if isinstance(error, UpstreamQuotaExhausted):
            return name, self._quota_rest_s, times
        if isinstance(error, UpstreamAuthError) or error.upstream_status == 403:
            return name, min(REFUSED_REST_S * 2 ** min(times - 1, 10), _LONGEST_REFUSED_REST_S), times
        if error.upstream_status == 429:
            return name, min(max(error.retry_after_s or 0.0, _LIMITED_REST_S), _LONGEST_LIMITED_REST_S), times
        return None

    def _last_error(self, model: str, now: float) -> UpstreamError:
        """Of the credential that wakes first: its error, and when to come back."""
        rests = [rest for credential in self.all if (rest := credential.rest(model, now)) is not None]
        rest = min(rests, key=lambda rest: rest.until)
        error = copy.copy(rest.error).with_traceback(None)  # a shared exception would collect every caller's traceback
        if error.upstream_status == 429:
            error.retry_after_s = rest.until - now
        return error


def _rank(conversation: str, index: int) -> bytes:
    """Rendezvous hashing: the lowest rank wins, so that one credential's rest moves no conversation of another one."""
    return blake2b(b"%d:" % index + conversation.encode("utf-8", "surrogatepass"), digest_size=8).digest()
