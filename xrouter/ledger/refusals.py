"""402, told so that the one who pays knows what to do: which limit, how much is left, when it begins anew."""

from typing import Final

from xrouter.errors import PaymentRequired
from xrouter.ledger.limits import SpendingLimit, left_of
from xrouter.ledger.windows import resets_at
from xrouter.store.amounts import format_credits
from xrouter.store.ledger_rows import Account, KeyUsage

_NAMES: Final = {None: "total", "daily": "daily", "weekly": "weekly", "monthly": "monthly"}
_IN_WORDS: Final = {None: "limit", "daily": "daily limit", "weekly": "weekly limit", "monthly": "monthly limit"}
_EACH: Final = {None: "in all", "daily": "a day", "weekly": "a week", "monthly": "a month"}
_SOON_S: Final = 1.0


def insufficient(
    account: Account, key: KeyUsage, limits: tuple[SpendingLimit, ...], needed_nano: int
) -> PaymentRequired:
    """The refusal of a hold of `needed_nano`: the tightest of the account's balance and the limits is named.

    Where credits would be enough but for requests under way, `Retry-After` is given: their holds may shrink.
    """
    tightest = min(limits, key=lambda limit: left_of(limit, key), default=None)
    if tightest is not None and left_of(tightest, key) < account.available_nano:
        return _by_limit(tightest, key, needed_nano)
    left = max(0, account.available_nano)
    in_flight = account.available_nano + account.held_nano >= needed_nano
    return PaymentRequired(
        f"Not enough credits: this request needs up to {format_credits(needed_nano)}, the account has"
        f" {format_credits(left)} left" + (_waiting(account.held_nano) if in_flight else ""),
        retry_after_s=_SOON_S if in_flight else None,
        metadata={
            "limit": "account",
            "needed": format_credits(needed_nano),
            "remaining": format_credits(left),
            "held": format_credits(account.held_nano),
            "resets_at": None,
        },
    )


def _by_limit(limit: SpendingLimit, key: KeyUsage, needed_nano: int) -> PaymentRequired:
    left, resets = left_of(limit, key), resets_at(key.day, limit.reset)
    in_flight = left + key.held_nano >= needed_nano
    until = f"; it begins anew at {resets.isoformat()}" if resets else ""
    if limit.tier is None:
        reached = f"The key's {_IN_WORDS[limit.reset]} is reached"
    else:
        reached = f"The quota is reached (tier {limit.tier}: {format_credits(limit.nano)} credits {_EACH[limit.reset]})"
    return PaymentRequired(
        f"{reached}: this request needs up to {format_credits(needed_nano)} credits,"
        f" {format_credits(max(0, left))} are left{until}" + (_waiting(key.held_nano) if in_flight else ""),
        retry_after_s=_SOON_S if in_flight else None,
        metadata={
            "limit": f"{'key' if limit.tier is None else 'tier'}_{_NAMES[limit.reset]}",
            "needed": format_credits(needed_nano),
            "remaining": format_credits(max(0, left)),
            "held": format_credits(key.held_nano),
            "resets_at": resets.isoformat() if resets else None,
        },
    )


def _waiting(held_nano: int) -> str:
    return f"; {format_credits(held_nano)} are set aside for requests under way"
