"""A world whose time stands still until it is moved, and whose chance comes from a seed."""

import asyncio
import random


class SeededWorld:
    def __init__(self, seed: int = 1, now: float = 1_800_000_000.0) -> None:
        self._random = random.Random(seed)
        self.seconds = 1000.0
        self._start = now - self.seconds

    def now(self) -> float:
        return self._start + self.seconds

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)

    def random(self) -> float:
        return self._random.random()

    def random_bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)
