"""What a limit is, what a request wants of it, and what came of that.

Amounts are whole numbers: requests, tokens, simultaneous requests, or millionths of a credit. Times are whole microseconds,
which stay exact in the doubles of Redis' Lua (until the year 2255).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Literal

from msgspec import Struct

from xrouter.config.settings import Strategy

Per = Literal["key", "account", "user", "model", "upstream", "ip", "tier"]
"""Whose use is added up. `user` is the request's own field `user`, within the account that sends it."""

Kind = Literal["requests", "tokens", "input_tokens", "output_tokens", "credits", "concurrency"]
TOKEN_KINDS: Final[frozenset[Kind]] = frozenset({"tokens", "input_tokens", "output_tokens"})

Mark = int | str
"""Where in a limit's state something was taken: a window's start, the index of a slice of it, a lease's id; or `ago(…)`."""

MICRO: Final = 1_000_000
_AGO: Final = "ago "
_WINDOW_S: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "month": 30 * 86400}
_RATE: Final = re.compile(
    r"([0-9]{1,15}) *(?:/| per ) *(?:([0-9]{1,9}) *)?(second|minute|hour|day|month)s?", re.IGNORECASE
)
_LONGEST_WINDOW_S: Final = 366 * 86400
_LARGEST_AMOUNT: Final = 10**15  # far below 2**53, where doubles stop being exact


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Limit:
    """At most `amount` of `kind` in any `window_s` seconds, or at any time if the kind is concurrency.

    `burst`: for the token bucket, how much may be taken at once from a full bucket. A `shadow` limit is counted and
    reported but refuses nothing. `credits_most`: if it is not 0, `amount` is for each credit that the caller has left, and
    this is the most that it comes to. `models`: patterns; () is every model. Limits are made once, when the configuration is
    loaded, and told apart by identity: comparing ten fields for every request would be time lost.
    """

    name: str
    per: Per
    kind: Kind
    amount: int
    window_s: int = 0
    strategy: Strategy = "sliding_window"
    burst: int = 0
    shadow: bool = False
    models: tuple[str, ...] = ()
    credits_most: int = 0
    window_us: int = field(init=False, repr=False)
    most: int = field(init=False, repr=False)  # that can ever be taken at once
    unit: int = field(init=False, repr=False)  # that people are told amounts in
    told_amount: bytes = field(init=False, repr=False)  # the amount in a header
    code: str = field(init=False, repr=False)  # what limits.lua is told of it
    name_in_keys: str = field(init=False, repr=False)  # the middle part of its states' keys

    def __post_init__(self) -> None:
        kind = "c" if self.kind == "concurrency" else self.strategy[0]
        window_us = self.window_s * MICRO
        bucket = self.strategy == "token_bucket" and self.kind != "concurrency"
        object.__setattr__(self, "window_us", window_us)
        object.__setattr__(self, "most", self.burst if bucket else self.amount)
        object.__setattr__(self, "unit", MICRO if self.kind == "credits" else 1)
        object.__setattr__(self, "told_amount", b"%d" % (self.amount // self.unit))
        object.__setattr__(self, "name_in_keys", f":{self.name}:{self.strategy[0]}{self.window_s}:")
        object.__setattr__(self, "code", f"{kind} {self.amount} {window_us} {self.burst} {int(self.shadow)}")

    def for_credits(self, credits: int | None) -> "Limit":
        """The limit of a caller who has so many whole credits left. None: that is not known, and the most holds."""
        if not self.credits_most:
            return self
        amount = self.credits_most if credits is None else min(self.credits_most, self.amount * max(1, credits))
        return _sized(self, amount)

    def share(self, parts: int) -> "Limit":
        """The same limit for one of `parts` processes that cannot count together; each is left at least 1."""
        return _share(self, parts)


@lru_cache(maxsize=10_000)
def _sized(limit: Limit, amount: int) -> Limit:
    return replace(limit, amount=amount, burst=amount)


@lru_cache(maxsize=10_000)
def _share(limit: Limit, parts: int) -> Limit:
    return replace(limit, amount=max(1, limit.amount // parts), burst=max(1, limit.burst // parts))


class Claim(Struct, frozen=True):
    """What one request wants of one limit. `key`: the state's name in the store, for the subject that is meant.

    An amount of 0 takes nothing and fits if at least 1 is left: so a spent limit of tokens refuses before they are counted.
    """

    limit: Limit
    key: str
    amount: int


class State(Struct, frozen=True):
    """Where a limit stands. After an admission what was taken is in it; after a refusal nothing has changed.

    `fits`: whether the claim fits. `reset_us`: until all of it is free again. `retry_us`: until a claim that does not fit
    would; -1 if it never can.
    """

    fits: bool
    remaining: int
    reset_us: int
    retry_us: int
    mark: Mark


Standing = tuple[Claim, State]
"""What was asked of a limit, and where it stands."""


class Decision(Struct, frozen=True):
    """One answer to all of a request's claims: `states` in their order. Shadow limits do not decide."""

    admitted: bool
    states: Sequence[State]


class Change(Struct, frozen=True):
    """A later change of what was taken: `delta` more, or less if negative. For a lease: -1 ends it, 0 takes or renews it.

    What was taken in a window that has passed is not changed: it counts no more. With a mark made by `ago`, `delta` is what
    was used then and is not known yet: it is taken whether it fits or not. With a `name` it is taken once, however often it
    is told.
    """

    limit: Limit
    key: str
    mark: Mark
    delta: int
    name: str = ""

    @property
    def age_us(self) -> int | None:
        """How long ago it was used, for a mark made by `ago`."""
        mark = self.mark
        if type(mark) is int or self.limit.kind == "concurrency":
            return None
        return int(str(mark).removeprefix(_AGO))


def ago(age_us: int) -> Mark:
    """The mark of a use that the state does not know of. Not for concurrency, whose marks are leases."""
    return f"{_AGO}{age_us}"


NOW: Final = ago(0)


@dataclass(frozen=True, slots=True)
class Rate:
    amount: int
    window_s: int


def parse_rate(text: str) -> Rate:
    """`20/minute`, `5 per 10 seconds`, as the `limits` package writes them. Raises ValueError with a message for people."""
    match = _RATE.fullmatch(text.strip())
    amount, multiple = (int(match[1]), int(match[2] or 1)) if match else (0, 0)
    if match is None or amount == 0 or multiple == 0:
        raise ValueError("a limit is written N/second, N/minute, N/hour, N/day or N/month, such as 5 per 2 hours")
    window_s = multiple * _WINDOW_S[match[3].lower()]
    if window_s > _LONGEST_WINDOW_S:
        raise ValueError("a limit's window is at most a year")
    if amount > _LARGEST_AMOUNT:
        raise ValueError(f"a limit is at most {_LARGEST_AMOUNT}")
    return Rate(amount, window_s)
