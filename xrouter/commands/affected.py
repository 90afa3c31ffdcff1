"""Whom a change of configuration meets: keys that lose models or a tier, or that a new limit finds beyond it."""

from collections.abc import AsyncIterator, Iterable, Iterator
from decimal import Decimal
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.catalog import Catalog
from xrouter.config.settings import DEFAULT_TIER, Settings, Tier
from xrouter.context import Principal
from xrouter.ledger.windows import day_of, roll
from xrouter.limits.limit import Limit
from xrouter.limits.rules import tier_limits
from xrouter.store.amounts import NANO_PER_CREDIT
from xrouter.store.key import Key
from xrouter.store.keys import KeyStore
from xrouter.store.usage import KeySpending, read_spending
from xrouter.store.use_by_key import Use, read_use_by_key
from xrouter.world import World

_PAGE: Final = 500
_HOUR_S: Final = 3600


class Affected(msgspec.Struct, frozen=True):
    """One key. `effects` are sentences without an end, such as "loses the models a/b, c/d"."""

    key: str
    name: str
    account: str
    tier: str | None
    effects: list[str]


async def affected(engine: AsyncEngine, world: World, old: Settings, new: Settings) -> list[Affected]:
    """Of the keys that are in force in `engine`'s database, those for which something gets narrower."""
    before, after = Catalog(old), Catalog(new)
    narrowed = {name: _narrowed(old.tiers.get(name), tier) for name, tier in new.tiers.items()}
    use = {window: await _use(engine, world, window) for window in _windows(narrowed.values())}
    found = []
    async for key, spending in _keys(engine, world):
        tier = key.tier or DEFAULT_TIER
        effects = [*_lost_models(_principal(key), before, after), *_lost_tier(key, old, new)]
        for limit in narrowed.get(tier, ()):
            effects += _exceeded(limit, use[limit.window_s].get(key.hash))
        effects += _overspent(tier, old.tiers.get(tier), new.tiers.get(tier), spending, day_of(int(world.now() * 1e6)))
        if effects:
            found.append(Affected(key.hash, key.name, key.account, key.tier, effects))
    return found


async def _keys(engine: AsyncEngine, world: World) -> AsyncIterator[tuple[Key, KeySpending]]:
    store, offset = KeyStore(engine, world), 0
    while page := await store.page(offset=offset, limit=_PAGE, include_expired=False, management=False):
        for key, spending in zip(page, await read_spending(engine, page, day_of(int(world.now() * 1e6))), strict=True):
            yield key, spending
        offset += len(page)


def _principal(key: Key) -> Principal:
    models = None if key.models is None else frozenset(key.models)
    return Principal(key_id=key.hash, account=key.account, name=key.name, tier=key.tier, models=models)


def _lost_models(principal: Principal, before: Catalog, after: Catalog) -> Iterator[str]:
    lost = [
        name
        for name, entry in before.names()
        if before.may_use(principal, entry)
        and not ((kept := after.resolve(name)) is not None and after.may_use(principal, kept))
    ]
    if lost:
        yield f"loses the model{'s' if len(lost) > 1 else ''} {', '.join(lost)}"


def _lost_tier(key: Key, old: Settings, new: Settings) -> Iterator[str]:
    if key.tier is not None and key.tier in old.tiers and key.tier not in new.tiers:
        yield f"its tier {key.tier} is gone, and with it the tier's limits"


def _narrowed(old: Tier | None, new: Tier) -> tuple[Limit, ...]:
    """The new tier's limits over an hour or more, for requests and tokens, that the old one did not have as they are."""
    known = {(limit.kind, limit.amount, limit.window_s) for limit in tier_limits("", old)} if old is not None else set()
    return tuple(
        limit
        for limit in tier_limits("", new)
        if (limit.kind, limit.amount, limit.window_s) not in known
        and limit.kind in ("requests", "tokens")
        and limit.window_s >= _HOUR_S
    )


def _windows(limits: Iterable[tuple[Limit, ...]]) -> set[int]:
    return {limit.window_s for group in limits for limit in group}


async def _use(engine: AsyncEngine, world: World, window_s: int) -> dict[str, Use]:
    return await read_use_by_key(engine, since_hour=int(world.now() - window_s) // _HOUR_S + 1)


def _exceeded(limit: Limit, use: Use | None) -> Iterator[str]:
    used = 0 if use is None else use.requests if limit.kind == "requests" else use.tokens
    if used > limit.amount:
        hours = limit.window_s // _HOUR_S
        yield f"has used {used} {limit.kind} in the last {hours} h, more than the limit of {limit.amount}"


def _overspent(name: str, old: Tier | None, new: Tier | None, spending: KeySpending, day: int) -> Iterator[str]:
    if new is None or new.quota is None or (old is not None and old.quota == new.quota):
        return
    usage = spending.usage
    roll(usage, day)
    spent = {"total": usage.used_nano, "day": usage.day_nano, "week": usage.week_nano, "month": usage.month_nano}
    for window, nano in spent.items():
        most: Decimal | None = getattr(new.quota, window)
        if most is not None and nano > most * NANO_PER_CREDIT:
            credits = Decimal(nano) / NANO_PER_CREDIT
            yield f"has spent {credits:f} credits of the {most} that tier {name} allows ({window})"
