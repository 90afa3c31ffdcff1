"""The outside facts that a run depends on: time and chance.

Everything on the request path takes a `World` as an argument instead of calling `time` or `random`, so that a test (or a
simulation of a whole run) can supply its own and replay it from one seed.
"""

import asyncio
import random
import time
from typing import Protocol


class World(Protocol):
    """Time and chance."""

    def now(self) -> float:
        """Wall-clock time, seconds since the epoch. May step backwards: never subtract two of these."""

    def monotonic(self) -> float:
        """Seconds on a clock that only goes forward: for durations and deadlines."""

    async def sleep(self, seconds: float) -> None:
        """Wait on the monotonic clock."""

    def random(self) -> float:
        """A number in [0, 1): jitter and choices between equals. Not for secrets."""

    def random_bytes(self, size: int) -> bytes:
        """Bytes for identifiers. Not for secrets: those come from the `secrets` module."""


class RealWorld:
    """The machine's own clock and a generator seeded by the system."""

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311  jitter and identifiers, never secrets
        self.now = time.time
        self.monotonic = time.monotonic
        self.random = self._random.random
        self.random_bytes = self._random.randbytes

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
