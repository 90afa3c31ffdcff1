"""For tests of stored keys: a fresh real database, a clock moved by hand, and the configuration that the commands read."""

import asyncio
import random
from pathlib import Path

from kit import stores
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.auth.issue import IssuedKey, issue
from xrouter.store.key import NewKey
from xrouter.store.keys import KeyStore
from xrouter.store.migrate import open_store
from xrouter.world import World

EPOCH_S = 1_800_000_000.0


class HandWorld:
    """Time stands still until `advance`; chance is seeded."""

    def __init__(self) -> None:
        self.wall_s = EPOCH_S
        self.elapsed_s = 0.0
        self._random = random.Random(1)
        self._sleepers: list[tuple[float, asyncio.Event]] = []
        self.asleep = asyncio.Event()

    def now(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.elapsed_s

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self.elapsed_s + seconds, woken))
        self.asleep.set()
        await woken.wait()

    def random(self) -> float:
        return self._random.random()

    def random_bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def advance(self, seconds: float) -> None:
        self.wall_s += seconds
        self.elapsed_s += seconds
        self.asleep.clear()
        for due, woken in self._sleepers:
            if due <= self.elapsed_s:
                woken.set()
        self._sleepers = [(due, woken) for due, woken in self._sleepers if not woken.is_set()]


async def fresh_engine(folder: Path) -> AsyncEngine:
    return await open_store(stores.current.url(folder / "keys.db"))


async def make_key(engine: AsyncEngine, world: World, new: NewKey | None = None) -> IssuedKey:
    return await issue(KeyStore(engine, world), new or NewKey(name="test"))


def write_configuration(folder: Path) -> Path:
    """A small configuration with a store in `folder`, two tiers and two models; returns its path."""
    path = folder / "x.yaml"
    path.write_text(
        f"store: sqlite:///{folder / 'keys.db'}\n"
        "admin: {token: an-admin-token}\n"
        "upstreams:\n"
        "  giga: {provider: gigachat, base_url: 'http://127.0.0.1:1/v1', credentials: Y2xpZW50OnNlY3JldA==}\n"
        "models:\n"
        "  gigachat/max: {aliases: [max], price: free, routes: [{upstream: giga, model: GigaChat-2-Max}]}\n"
        "  gigachat/pro: {variants: {rc: rc}, price: free, routes: [{upstream: giga, model: GigaChat-2-Pro}]}\n"
        "tiers: {free: {requests: [20/minute]}, pro: {}}\n"
        "filters: [{auth: {}}, {body: {}}, {routing: {}}]\n"
    )
    return path
