"""What is remembered of one place's calls: counts and histograms in rings of a fixed size, whatever the traffic.

A ring is a row of equal slots of time. Recording touches one slot; slots that time has passed over are emptied when the next
call is recorded or read. Times are monotonic seconds.
"""

from array import array
from collections.abc import Iterable
from math import log2
from typing import Final

_STEPS: Final = 8  # buckets for each doubling: neighbours are 9 % apart, so a percentile is right within 5 %
_LOWEST: Final = 2**-10  # what is less counts as this: a millisecond, or a thousandth of a token a second
_BUCKETS: Final = 24 * _STEPS  # up to 2**14: 4.5 hours, or 16 384 tokens a second
_OFFSET: Final = 10 * _STEPS


class _Ring:
    """Which slot is now, and which have to be emptied first."""

    __slots__ = ("_last", "_slot_s", "_slots")

    def __init__(self, slots: int, slot_s: float) -> None:
        self._slots = slots
        self._slot_s = slot_s
        self._last = -1  # the number of the newest slot since the clock's zero; -1: nothing was recorded

    def _passed(self, now: float) -> Iterable[int]:
        """The slots to empty, now that it is `now`."""
        number = int(now / self._slot_s)
        last, self._last = self._last, number
        if last < 0:
            return ()
        return [step % self._slots for step in range(max(last + 1, number - self._slots + 1), number + 1)]


class Counts(_Ring):
    """How many calls went well and how many failed, over the last `slots` · `slot_s` seconds."""

    __slots__ = ("_bad", "_good")

    def __init__(self, slots: int, slot_s: float) -> None:
        super().__init__(slots, slot_s)
        self._good = array("I", bytes(4 * slots))
        self._bad = array("I", bytes(4 * slots))

    def add(self, now: float, good: bool) -> None:
        number = int(now / self._slot_s)
        if number != self._last:
            self._empty(now)
        counts = self._good if good else self._bad
        counts[number % self._slots] += 1

    def read(self, now: float, seconds: float) -> tuple[int, int]:
        """Those that went well and those that failed within the last `seconds`, the slot under way included."""
        self._empty(now)
        newest = min(self._slots, round(seconds / self._slot_s))
        first, end = (self._last - newest + 1) % self._slots, self._last % self._slots + 1
        return _sum(self._good, first, end), _sum(self._bad, first, end)

    def clear(self) -> None:
        self._good = array("I", bytes(4 * self._slots))
        self._bad = array("I", bytes(4 * self._slots))

    def _empty(self, now: float) -> None:
        for slot in self._passed(now):
            self._good[slot] = self._bad[slot] = 0


class Histogram(_Ring):
    """Values on a logarithmic scale, over the last `slots` · `slot_s` seconds."""

    __slots__ = ("_rows",)

    def __init__(self, slots: int, slot_s: float) -> None:
        super().__init__(slots, slot_s)
        self._rows = [array("I", bytes(4 * _BUCKETS)) for _ in range(slots)]

    def add(self, now: float, value: float) -> None:
        number = int(now / self._slot_s)
        if number != self._last:
            self._empty(now)
        bucket = int(log2(value) * _STEPS + _OFFSET) if value > _LOWEST else 0
        self._rows[number % self._slots][bucket if bucket < _BUCKETS else -1] += 1

    def percentiles(self, now: float, shares: Iterable[float]) -> list[float] | None:
        """The value below which each share of them lies, ascending; None if there are none."""
        self._empty(now)
        sums = [sum(column) for column in zip(*self._rows, strict=True)]
        total = sum(sums)
        if not total:
            return None
        found: list[float] = []
        bucket, below = 0, sums[0]
        for share in shares:
            while below < share * total:
                bucket += 1
                below += sums[bucket]
            found.append(_middle(bucket))
        return found

    def _empty(self, now: float) -> None:
        for slot in self._passed(now):
            self._rows[slot] = array("I", bytes(4 * _BUCKETS))


def _sum(ring: "array[int]", first: int, end: int) -> int:
    """Of the slots from `first` up to `end`, around the ring's end where it has to be."""
    return sum(ring[first:end]) if first < end else sum(ring[first:]) + sum(ring[:end])


def _middle(bucket: int) -> float:
    """The geometric middle of a bucket's bounds."""
    value: float = 2 ** ((bucket + 0.5 - _OFFSET) / _STEPS)
    return value
