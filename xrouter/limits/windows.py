"""The arithmetic of one limit's state, in memory. `limits.lua` does the same in Redis; one contract suite holds both.

All of them are exact and take O(1) on average. `used` may exceed the limit: a correction with the real usage is a fact, and
what is over is waited for. `fits` is that of `state`, by itself. `take` gives the state after it, as that of a claim that
fits. `limit` is the one that the window was made for; the amount may since have become another.
"""

from collections import deque
from typing import Final

from xrouter.limits.limit import Limit, Mark, State

SLICES: Final = 60  # of a sliding window
SLOT_RETRY_US: Final = 1_000_000  # when a place of a full concurrency limit comes free is not known


class FixedWindow:
    """Begins with its first use, and ends `window_s` later for all that was used in it."""

    __slots__ = ("limit", "start_us", "used")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.start_us = 0
        self.used = 0

    def fits(self, limit: Limit, amount: int, now_us: int) -> bool:
        used = self.used if now_us < self.start_us + limit.window_us else 0
        return used + (amount or 1) <= limit.amount

    def state(self, limit: Limit, amount: int, now_us: int) -> State:
        used = self.used if now_us < self.start_us + limit.window_us else 0
        reset_us = self.start_us + limit.window_us - now_us if used else 0
        fits = self.fits(limit, amount, now_us)
        retry_us = 0 if fits else reset_us if amount <= limit.amount else -1
        return State(fits, max(0, limit.amount - used), reset_us, retry_us, self.start_us)

    def take(self, limit: Limit, amount: int, now_us: int, lease: str) -> State:
        if now_us >= self.start_us + limit.window_us or not self.used:
            self.start_us, self.used = now_us, 0
        self.used += amount
        reset_us = self.start_us + limit.window_us - now_us if self.used else 0
        return State(True, max(0, limit.amount - self.used), reset_us, 0, self.start_us)

    def change(self, limit: Limit, mark: Mark, delta: int, now_us: int) -> None:
        if mark == self.start_us and now_us < self.start_us + limit.window_us:
            self.used = max(0, self.used + delta)

    def used_at(self, limit: Limit, amount: int, at_us: int, now_us: int) -> None:
        """It counts in the window of now, which began with it if nothing else was used."""
        if at_us + limit.window_us <= now_us:
            return
        if now_us >= self.start_us + limit.window_us or not self.used:
            self.start_us, self.used = at_us, 0
        self.used += amount

    def uses(self, now_us: int) -> list[tuple[int, int]]:
        """When how much was used that counts now."""
        return [(self.start_us, self.used)] if self.used and now_us < self.start_us + self.limit.window_us else []

    def ends_us(self) -> int:
        return self.start_us + self.limit.window_us


class SlidingWindow:
    """In any `window_s` seconds, wherever they begin, at most the limit.

    Uses are kept in slices of a 60th of the window. A slice leaves whole, one window after the last use in it: never too
    early, and at most a 60th of the window later than each use alone would.
    """

    __slots__ = ("limit", "slices", "total")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.slices: deque[list[int]] = deque()  # [index, used, time of the last use], oldest first
        self.total = 0

    def _expire(self, limit: Limit, now_us: int) -> None:
        slices = self.slices
        while slices and slices[0][2] + limit.window_us <= now_us:
            self.total -= slices.popleft()[1]

    def fits(self, limit: Limit, amount: int, now_us: int) -> bool:
        slices = self.slices
        if slices and slices[0][2] + limit.window_us <= now_us:
            self._expire(limit, now_us)
        return self.total + (amount or 1) <= limit.amount

    def state(self, limit: Limit, amount: int, now_us: int) -> State:
        slices = self.slices
        if slices and slices[0][2] + limit.window_us <= now_us:
            self._expire(limit, now_us)
        left = limit.amount - self.total
        fits = left >= (amount or 1)
        retry_us = 0 if fits else self._retry_us(limit, amount, now_us)
        if not slices:
            return State(fits, left if left > 0 else 0, 0, retry_us, 0)
        index, _, last_us = slices[-1]
        return State(fits, left if left > 0 else 0, last_us + limit.window_us - now_us, retry_us, index)

    def _retry_us(self, limit: Limit, amount: int, now_us: int) -> int:
        excess = self.total + max(amount, 1) - limit.amount
        for _, used, last_us in self.slices:
            excess -= used
            if excess <= 0:
                return last_us + limit.window_us - now_us
        return -1

    def take(self, limit: Limit, amount: int, now_us: int, lease: str) -> State:
        if not amount:
            return self.state(limit, 0, now_us)
        slices = self.slices
        index = now_us * SLICES // limit.window_us
        newest = slices[-1] if slices else None
        if newest is not None and newest[0] == index:
            newest[1] += amount
            newest[2] = now_us
        else:
            slices.append([index, amount, now_us])
        self.total = total = self.total + amount
        return State(True, limit.amount - total if total < limit.amount else 0, limit.window_us, 0, index)

    def change(self, limit: Limit, mark: Mark, delta: int, now_us: int) -> None:
        if self.slices and self.slices[0][2] + limit.window_us <= now_us:
            self._expire(limit, now_us)
        for piece in reversed(self.slices):  # a correction is mostly of one of the newest
            if piece[0] == mark:
                changed = max(0, piece[1] + delta)
                self.total += changed - piece[1]
                piece[1] = changed
                if not changed:
                    self.slices.remove(piece)
                return

    def used_at(self, limit: Limit, amount: int, at_us: int, now_us: int) -> None:
        self._expire(limit, now_us)
        if at_us + limit.window_us <= now_us:
            return
        index = at_us * SLICES // limit.window_us
        for piece in self.slices:
            if piece[0] == index:
                piece[1] += amount
                piece[2] = max(piece[2], at_us)
                break
        else:
            self.slices = deque(sorted([*self.slices, [index, amount, at_us]]))
        self.total += amount

    def uses(self, now_us: int) -> list[tuple[int, int]]:
        self._expire(self.limit, now_us)
        return [(last_us, used) for _, used, last_us in self.slices]

    def ends_us(self) -> int:
        return self.slices[-1][2] + self.limit.window_us if self.slices else 0


class TokenBucket:
    """Refills evenly, `amount` in `window_s`, up to `burst`.

    Kept as one time, that at which it will be full (the "theoretical arrival time" of the generic cell rate algorithm, ITU-T
    I.371): taking moves it on by what the taken amount needs to refill.
    """

    __slots__ = ("full_us", "limit")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.full_us = 0

    def fits(self, limit: Limit, amount: int, now_us: int) -> bool:
        behind_us = max(0, self.full_us - now_us)
        return _refill_us(limit, amount or 1) <= _refill_us(limit, limit.burst) - behind_us

    def state(self, limit: Limit, amount: int, now_us: int) -> State:
        behind_us = max(0, self.full_us - now_us)
        room_us = _refill_us(limit, limit.burst) - behind_us
        need_us = _refill_us(limit, amount or 1)
        fits = need_us <= room_us
        retry_us = 0 if fits else need_us - room_us if amount <= limit.burst else -1
        return State(fits, max(0, room_us * limit.amount // limit.window_us), behind_us, retry_us, 0)

    def take(self, limit: Limit, amount: int, now_us: int, lease: str) -> State:
        self.full_us = max(self.full_us, now_us) + _refill_us(limit, amount)
        after = self.state(limit, 0, now_us)
        return State(True, after.remaining, after.reset_us, 0, 0)

    def change(self, limit: Limit, mark: Mark, delta: int, now_us: int) -> None:
        if delta >= 0:
            self.full_us = max(self.full_us, now_us) + _refill_us(limit, delta)
        else:
            self.full_us -= _refill_us(limit, -delta)

    def used_at(self, limit: Limit, amount: int, at_us: int, now_us: int) -> None:
        """As if it were of now: `uses` tells only what has not refilled yet."""
        self.full_us = max(self.full_us, now_us) + _refill_us(limit, amount)

    def uses(self, now_us: int) -> list[tuple[int, int]]:
        amount = (self.full_us - now_us) * self.limit.amount // self.limit.window_us
        return [(now_us, amount)] if amount > 0 else []

    def ends_us(self) -> int:
        return self.full_us


def _refill_us(limit: Limit, amount: int) -> int:
    """How long the bucket needs to refill by `amount`. Rounded down, so that a burst of single uses fits whole."""
    return amount * limit.window_us // limit.amount


class Slots:
    """Requests under way. In memory a lease needs no end: whoever dies takes the count with it."""

    __slots__ = ("leases", "limit")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.leases: set[str] = set()

    def fits(self, limit: Limit, amount: int, now_us: int) -> bool:
        return len(self.leases) + (amount or 1) <= limit.amount

    def state(self, limit: Limit, amount: int, now_us: int) -> State:
        fits = self.fits(limit, amount, now_us)
        return State(fits, max(0, limit.amount - len(self.leases)), 0, 0 if fits else SLOT_RETRY_US, 0)

    def take(self, limit: Limit, amount: int, now_us: int, lease: str) -> State:
        self.leases.add(lease)
        left = limit.amount - len(self.leases)
        return State(True, left if left > 0 else 0, 0, 0, lease)

    def change(self, limit: Limit, mark: Mark, delta: int, now_us: int) -> None:
        if delta < 0:
            self.leases.discard(str(mark))
        else:
            self.leases.add(str(mark))

    def used_at(self, limit: Limit, amount: int, at_us: int, now_us: int) -> None:
        """A lease of the past is none."""

    def uses(self, now_us: int) -> list[tuple[int, int]]:
        return []

    def ends_us(self) -> int:
        return _NEVER_US if self.leases else 0


_NEVER_US: Final = 1 << 62
Window = FixedWindow | SlidingWindow | TokenBucket | Slots


def new_window(limit: Limit) -> Window:
    """A state in which nothing is used."""
    if limit.kind == "concurrency":
        return Slots(limit)
    match limit.strategy:
        case "fixed_window":
            return FixedWindow(limit)
        case "sliding_window":
            return SlidingWindow(limit)
        case "token_bucket":
            return TokenBucket(limit)
