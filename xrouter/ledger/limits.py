"""What bounds a key's spending beside the account's balance: its own limit, and the quota of its tier.

Both are counted for the key together with the keys that it was rotated from, so a new secret is no new limit.
"""

from decimal import Decimal
from typing import Final, NamedTuple

from xrouter.config.settings import TierQuota
from xrouter.ledger.windows import used_in
from xrouter.store.amounts import NANO_PER_CREDIT
from xrouter.store.key import LimitReset
from xrouter.store.ledger_rows import KeyTerms, KeyUsage

_WINDOWS: Final[tuple[tuple[str, LimitReset | None], ...]] = (
    ("total", None),
    ("day", "daily"),
    ("week", "weekly"),
    ("month", "monthly"),
)


class SpendingLimit(NamedTuple):
    """No more than `nano` in a window of `reset`, or ever. `tier`: whose quota it is; None: the key's own limit."""

    nano: int
    reset: LimitReset | None
    tier: str | None = None


def own_limit(terms: KeyTerms) -> tuple[SpendingLimit, ...]:
    return () if terms.limit_nano is None else (SpendingLimit(terms.limit_nano, terms.limit_reset),)


def quota_limits(tier: str, quota: TierQuota) -> tuple[SpendingLimit, ...]:
    """The limits that a tier sets for each of its keys."""
    amounts: list[tuple[Decimal | None, LimitReset | None]] = [
        (getattr(quota, name), reset) for name, reset in _WINDOWS
    ]
    return tuple(
        SpendingLimit(int(amount * NANO_PER_CREDIT), reset, tier) for amount, reset in amounts if amount is not None
    )


def left_of(limit: SpendingLimit, usage: KeyUsage) -> int:
    """What may still be held; below 0 where the limit has been lowered, or an answer cost more than its hold."""
    return limit.nano - used_in(usage, limit.reset) - usage.held_nano
