"""Secret → principal. A key in use costs a request a hash and a dictionary look-up; the database sees only new keys.

What is remembered of a key carries the revision of all keys that it was read under. The revision is read every half second;
what carries another one is read again before it is believed. So a change made by any process holds here within a second.
While the revision cannot be read, known keys go on working on what was last known, which is logged and shown by `lag_s`.
"""

import asyncio
import logging
import math
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.auth import keyformat
from xrouter.auth.guesses import GuessLimit
from xrouter.auth.lru import Lru
from xrouter.context import Principal
from xrouter.errors import Forbidden, StoreUnavailable, Unauthorized
from xrouter.store import revisions
from xrouter.store.engine import reason
from xrouter.store.key import Key
from xrouter.store.keys import KeyStore
from xrouter.world import World

_log = logging.getLogger(__name__)

_POLL_S: Final = 0.5
_POLL_TIMEOUT_S: Final = 1.0
_LOOK_UP_TIMEOUT_S: Final = 5.0
_LAG_TO_LOG_S: Final = 1.0
_MALFORMED: Final = "not the form of a key"
_STORE_FAILURES: Final = (SQLAlchemyError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class _Known:
    """What was read of one secret under one revision. `refusal`: why it admits nobody, for the log."""

    revision: int
    principal: Principal | None
    refusal: str | None = None
    expires_at: float = math.inf  # seconds since the epoch
    networks: tuple[IPv4Network | IPv6Network, ...] | None = None


class KeyRing:
    """The keys of one process. `start()` before the first request, `aclose()` after the last."""

    def __init__(self, engine: AsyncEngine, world: World, *, capacity: int = 10_000) -> None:
        """`capacity`: how many keys are remembered, and apart from them, so that guesses push out no key, other secrets."""
        self._engine = engine
        self._world = world
        self._store = KeyStore(engine, world)
        self._keys: Lru[bytes, _Known] = Lru(capacity)
        self._strangers: Lru[bytes, _Known] = Lru(capacity)
        self._guesses = GuessLimit(world)
        self._look_ups: dict[tuple[bytes, int], asyncio.Task[_Known]] = {}
        self._revision = -1
        self._followed_at = -math.inf
        self._follower: asyncio.Task[None] | None = None
        self.look_ups = 0  # how often the database was asked for a key: a metric

    @property
    def lag_s(self) -> float:
        """Seconds since the revision was last read: how old a change may be that this process does not know."""
        return self._world.monotonic() - self._followed_at

    async def start(self) -> None:
        """Read the revision and go on following it. Raises StoreUnavailable."""
        try:
            await self.refresh()
        except _STORE_FAILURES as error:
            raise StoreUnavailable(detail=reason(error)) from error
        self._follower = asyncio.create_task(self._follow(), name="keyring follower")

    async def aclose(self) -> None:
        tasks = [*self._look_ups.values(), *([self._follower] if self._follower else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh(self) -> None:
        """Notice changes of keys at once; for whoever has just made one in this process."""
        async with asyncio.timeout(_POLL_TIMEOUT_S):
            revision = await revisions.read(self._engine, "keys")
        self._revision = revision
        self._followed_at = self._world.monotonic()

    async def authenticate(self, secret: str, client_ip: str) -> Principal:
        """Who holds `secret`.

        Raises Unauthorized, the same for every secret that is not a key in force; Forbidden if the key may not be used from
        `client_ip`; RateLimited if too many unknown secrets came from there; StoreUnavailable if a key that is not
        remembered cannot be looked up.
        """
        if not keyformat.has_shape(secret):
            raise Unauthorized(detail=_MALFORMED)
        digest = keyformat.digest(secret)
        known = self._keys.get(digest) or self._strangers.get(digest)
        if known is None or known.revision != self._revision:
            if not keyformat.is_wellformed(secret):  # asked here only: of a known key it would be 1 µs for nothing
                raise Unauthorized(detail=_MALFORMED)
            known = await self._look_up(digest, client_ip)
        return _admitted(known, self._world.now(), client_ip)

    async def _look_up(self, digest: bytes, client_ip: str) -> _Known:
        """One read of the database for all that ask at the same time. None of them, leaving, takes it from the others."""
        # A read that began under an older revision may have missed the change: who comes after that starts another.
        flight = (digest, self._revision)
        task = self._look_ups.get(flight)
        if task is None:
            source = None if digest in self._keys else self._guesses.take(client_ip)
            task = asyncio.create_task(self._read(digest, self._revision, source), name="key look-up")
            self._look_ups[flight] = task
            task.add_done_callback(lambda done: self._landed(flight, done))
        return await asyncio.shield(task)

    def _landed(self, flight: tuple[bytes, int], task: asyncio.Task[_Known]) -> None:
        del self._look_ups[flight]
        if not task.cancelled():
            task.exception()  # those who waited have it; if all of them left, nobody misses it

    async def _read(self, digest: bytes, revision: int, guess: str | None) -> _Known:
        self.look_ups += 1
        try:
            async with asyncio.timeout(_LOOK_UP_TIMEOUT_S):
                key = await self._store.get(digest.hex())
        except _STORE_FAILURES as error:
            if guess is not None:
                self._guesses.give_back(guess)
            raise StoreUnavailable(detail=f"key look-up: {reason(error)}") from error
        if key is None:
            known = _Known(revision, None, "unknown key")
            self._keys.drop(digest)
            self._strangers.put(digest, known)
            return known
        if guess is not None:
            self._guesses.give_back(guess)
        known = _known(key, revision)
        self._keys.put(digest, known)
        return known

    async def _follow(self) -> None:
        failing = False
        while True:
            await self._world.sleep(_POLL_S)
            try:
                await self.refresh()
            except Exception as error:  # whatever it is, the follower goes on: revocations depend on it
                if not failing and self.lag_s > _LAG_TO_LOG_S:
                    failing = True
                    _log.warning("changes of keys cannot be followed; known keys go on working: %s", reason(error))
                continue
            if failing:
                failing = False
                _log.info("changes of keys are followed again")


def principal_of(key: Key, now_s: float, client_ip: str) -> Principal:
    """Who holds `key`, for those who have it from the database. Raises Unauthorized and Forbidden as `authenticate` does."""
    return _admitted(_known(key, 0), now_s, client_ip)


def _admitted(known: _Known, now_s: float, client_ip: str) -> Principal:
    principal = known.principal
    if principal is None or known.refusal is not None:
        raise Unauthorized(detail=known.refusal)
    if known.expires_at <= now_s:
        raise Unauthorized(detail="expired key")
    if known.networks is not None and not _within(client_ip, known.networks):
        raise Forbidden("This key may not be used from this address", detail=f"key {principal.key_id} from {client_ip}")
    return principal


def _known(key: Key, revision: int) -> _Known:
    return _Known(
        revision=revision,
        principal=Principal(
            key_id=key.hash,
            account=key.account,
            name=key.name,
            tier=key.tier,
            models=None if key.models is None else frozenset(key.models),
            management=key.management,
        ),
        refusal="revoked key" if key.revoked_at_us is not None else "disabled key" if key.disabled else None,
        expires_at=math.inf if key.expires_at_us is None else key.expires_at_us / 1e6,
        networks=None if key.networks is None else tuple(ip_network(network) for network in key.networks),
    )


def _within(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:  # a Unix socket's client has no address: it is in no network
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)
