"""Ejections, shared by the processes of one gateway through Redis.

A background task sends what has changed here and reads what has changed elsewhere, in one call of one script (shared.lua)
on one key: at once after a change, else twice a second. No request ever waits for it, and a Redis that is away costs only
the sharing: each process then goes by what it sees itself.

A place is ejected by the first process that finds out, and is well again for all when one process' probe has gone well.
"""

import asyncio
import logging
from hashlib import sha1
from pathlib import Path
from typing import Final

import msgspec
from redis.exceptions import NoScriptError, RedisError

from xrouter.limits.redis_client import Client
from xrouter.routing.health import Health, Place
from xrouter.routing.health_breaker import Ejection, Reason
from xrouter.world import World

log = logging.getLogger(__name__)

EVERY_S: Final = 0.5
_DEADLINE_S: Final = 3.0  # of one exchange, connecting included; nobody waits for it
_PAUSE_S: Final = 1.0  # between tries while Redis is away
_LEASE_MS: Final = 5000  # of the prober: another takes over when this one has not been heard of for so long
_KEY: Final = "xrh:places"
_SCRIPT: Final = Path(__file__).with_name("shared.lua").read_text(encoding="utf-8")
_SHA: Final = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class _Told(msgspec.Struct, array_like=True):
    """One place's last change, as shared.lua returns it. `left_ms` is 0 where the place is well again."""

    place: str
    version: int
    by: str
    left_ms: int
    reason: Reason
    kind: str
    open_ms: int


class _Reply(msgspec.Struct):
    prober: bool
    places: list[_Told] | None


class SharedHealth:
    """Connects `health` to its peers from `start` to `aclose`."""

    def __init__(self, health: Health, client: Client, world: World) -> None:
        self.up = False  # whether the last exchange went well
        self.errors = 0  # exchanges that failed
        self.leads = True  # whether this process makes the active probes: one for all, or each while Redis is away
        self._health = health
        self._client = client
        self._world = world
        self._name = world.random_bytes(8).hex()
        self._changed: dict[Place, None] = {}  # not told yet; what is told is how they are then
        self._seen: dict[str, int] = {}  # by place: the version of the last change that was applied here
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """No I/O: the task connects, and goes on trying while there is nobody to connect to."""
        self._health.on_change, self._health.shared = self._note, False
        self._task = asyncio.create_task(self._run(), name="sharing of ejections")

    async def aclose(self) -> None:
        self._health.on_change = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    def _note(self, place: Place, ejection: Ejection | None) -> None:
        self._changed[place] = None
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_DEADLINE_S):
                    await self._exchange()
            except Exception as error:  # redis-py's, the network's, TLS's, a reply that is none: the sharing goes on
                await self._down(error)
                continue
            if not self.up:
                self.up = self._health.shared = True
                log.info("ejections are shared through Redis")
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                continue  # nothing has changed here: look what has elsewhere

    async def _exchange(self) -> None:
        self._wake.clear()
        telling, self._changed = self._changed, {}
        try:
            answer = await self._ask([self._entry(place) for place in telling])
        except BaseException:
            self._changed = telling | self._changed
            raise
        self.leads = answer.prober
        for told in answer.places or ():
            if told.version > self._seen.get(told.place, 0):
                self._seen[told.place] = told.version
                if told.by != self._name:
                    self._apply(told)

    async def _ask(self, changes: list[list[str | int]]) -> _Reply:
        """Run the script. A server that has lost it is given it and asked again."""
        asked = {"by": self._name, "changes": changes, "lease_ms": _LEASE_MS}
        call = ([_KEY], msgspec.json.encode(asked).decode())
        (reply,) = await self._client.run(_SHA, [call])
        if isinstance(reply, NoScriptError):
            await self._client.load(_SCRIPT)
            (reply,) = await self._client.run(_SHA, [call])
        if isinstance(reply, Exception):
            raise reply
        return msgspec.json.decode(reply, type=_Reply)

    def _entry(self, place: Place) -> list[str | int]:
        ejection = self._health.ejection(place)
        name = msgspec.json.encode(place).decode()
        if ejection is None:
            return [name, 0, "failures", "", 0]
        left_ms = max(int((ejection.until - self._world.monotonic()) * 1000), 1)
        return [name, left_ms, ejection.reason, ejection.kind or "", int(ejection.open_s * 1000)]

    def _apply(self, told: _Told) -> None:
        place = msgspec.json.decode(told.place, type=Place)
        if place in self._changed:
            return  # what was found out here meanwhile is newer, and is told next
        if told.left_ms:
            self._health.peer_ejected(
                place, told.reason, told.kind or None, left_s=told.left_ms / 1000, open_s=told.open_ms / 1000
            )
        else:
            self._health.restore(place, peer=True)

    async def _down(self, error: Exception) -> None:
        """Say so once, and drop the connections: after a failover they may lead to a server that is now a replica."""
        if self.up:
            log.warning("ejections are not shared, Redis is away (%s)", str(error)[:200] or type(error).__name__)
        self.errors += 1
        self.up, self.leads, self._health.shared = False, True, False
        try:
            async with asyncio.timeout(_DEADLINE_S):
                await self._client.aclose()
        except (TimeoutError, RedisError, OSError) as closing:
            log.debug("closing connections to Redis: %s", closing)
        await self._world.sleep(_PAUSE_S)
