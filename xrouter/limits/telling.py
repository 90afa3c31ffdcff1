"""What Redis is to be told of uses that it did not see, and of each once."""

from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Final
from uuid import uuid4

from msgspec.structs import replace

from xrouter.limits.limit import MICRO, Change, ago
from xrouter.limits.memory import MemoryStore
from xrouter.world import RealWorld

_MOST: Final = 10_000  # states, and uses that may have been told


class Telling:
    """Uses that wait for a server that is away, as long as they count.

    One whose call failed after it was sent may have been told: in a failover that is the rule, since a new master runs the
    script and has no replica yet that could confirm it. It is told again under the name that it had, by which the server
    knows it; the others are added up.
    """

    def __init__(self) -> None:
        world = RealWorld()
        self._monotonic = world.monotonic
        self._missed = MemoryStore(world, _MOST)
        self._unsure: deque[tuple[int, Change]] = deque()  # with the time at which it was used
        self._process = uuid4().hex  # no other process has its names
        self._numbers = count()
        self._given_up = 0

    @property
    def lost(self) -> int:
        """How many were given up."""
        return self._given_up + self._missed.dropped

    def named(self, changes: Sequence[Change]) -> Sequence[Change]:
        """The same changes, with a name for each use."""
        for change in changes:
            if change.age_us is not None and not change.name:
                return [self._named(one) for one in changes]
        return changes

    def _named(self, change: Change) -> Change:
        if change.age_us is None or change.name:
            return change
        return replace(change, name=f"{self._process}-{next(self._numbers)}")

    def keep(self, use: Change, age_us: int) -> None:
        """Its call has failed. With a name it may have been told."""
        if not use.name:
            self._missed.settle([use])
            return
        self._unsure.append((self._now_us() - age_us, use))
        if len(self._unsure) > _MOST:
            self._unsure.popleft()
            self._given_up += 1

    def drain(self) -> list[Change]:
        """All of them, to be told now. They are forgotten here."""
        unsure, self._unsure = self._unsure, deque()
        now_us = self._now_us()
        again = [replace(use, mark=ago(now_us - at_us)) for at_us, use in unsure]
        return [*again, *self._missed.drain()]

    def _now_us(self) -> int:
        return int(self._monotonic() * MICRO)
