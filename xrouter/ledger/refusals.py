"""402, told so that the one who pays knows what to do: which limit, how much is left, when it begins anew."""

from typing import Final

from xrouter.errors import PaymentRequired
from xrouter.ledger.windows import resets_at, used_of_limit
from xrouter.store.amounts import format_credits
from xrouter.store.ledger_rows import Account, KeyUsage

_NAMES: Final = {None: "key_total", "daily": "key_daily", "weekly": "key_weekly", "monthly": "key_monthly"}
_IN_WORDS: Final = {None: "limit", "daily": "daily limit", "weekly": "weekly limit", "monthly": "monthly limit"}
_SOON_S: Final = 1.0


def insufficient(account: Account, key: KeyUsage, needed_nano: int) -> PaymentRequired:
    """The refusal of a hold of `needed_nano`: the tighter of the account's balance and the key's limit is named.

    Where credits would be enough but for requests under way, `Retry-After` is given: their holds may shrink.
    """
    available = account.available_nano
    if key.limit_nano is not None:
        left = key.limit_nano - used_of_limit(key) - key.held_nano
        if left < available:
            return _of_key(key, left, needed_nano)
    left = max(0, available)
    in_flight = available + account.held_nano >= needed_nano
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


def _of_key(key: KeyUsage, left_nano: int, needed_nano: int) -> PaymentRequired:
    left, resets = max(0, left_nano), resets_at(key)
    in_flight = left_nano + key.held_nano >= needed_nano
    until = f"; it begins anew at {resets.isoformat()}" if resets else ""
    return PaymentRequired(
        f"The key's {_IN_WORDS[key.limit_reset]} is reached: this request needs up to {format_credits(needed_nano)}"
        f" credits, {format_credits(left)} are left{until}" + (_waiting(key.held_nano) if in_flight else ""),
        retry_after_s=_SOON_S if in_flight else None,
        metadata={
            "limit": _NAMES[key.limit_reset],
            "needed": format_credits(needed_nano),
            "remaining": format_credits(left),
            "held": format_credits(key.held_nano),
            "resets_at": resets.isoformat() if resets else None,
        },
    )


def _waiting(held_nano: int) -> str:
    return f"; {format_credits(held_nano)} are set aside for requests under way"
