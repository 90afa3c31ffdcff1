"""The windows of limits: UTC days, weeks that begin on Monday, calendar months, as OpenRouter resets its own."""

from datetime import UTC, date, datetime
from typing import Final

from xrouter.store.key import LimitReset
from xrouter.store.ledger_rows import KeyUsage

_DAY_US: Final = 24 * 3600 * 1_000_000
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()


def day_of(at_us: int) -> int:
    """Days since 1970-01-01, UTC."""
    return at_us // _DAY_US


def hour_of(at_us: int) -> int:
    """Hours since 1970-01-01, UTC."""
    return at_us // (3600 * 1_000_000)


def week_of(day: int) -> int:
    return (day + 3) // 7  # 1970-01-01 was a Thursday


def month_of(day: int) -> int:
    on = date.fromordinal(_EPOCH_ORDINAL + day)
    return on.year * 12 + on.month


def roll(usage: KeyUsage, day: int) -> None:
    """Begin those windows of `usage` anew that `day` is no longer in.

    Time goes only forward here: under a clock that was set back, spending counts in the window that was current before,
    since a limit that begins anew twice could be spent twice (F20).
    """
    if day <= usage.day:
        return
    usage.day_nano = 0
    if week_of(day) != week_of(usage.day):
        usage.week_nano = 0
    if month_of(day) != month_of(usage.day):
        usage.month_nano = 0
    usage.day = day


def used_in(usage: KeyUsage, reset: LimitReset | None) -> int:
    """What counts against a limit that begins anew so."""
    match reset:
        case "daily":
            return usage.day_nano
        case "weekly":
            return usage.week_nano
        case "monthly":
            return usage.month_nano
        case None:
            return usage.used_nano


def resets_at(day: int, reset: LimitReset | None) -> datetime | None:
    """When the window ends that `day` lies in; None if it never does."""
    today = date.fromordinal(_EPOCH_ORDINAL + day)
    match reset:
        case "daily":
            ends = date.fromordinal(today.toordinal() + 1)
        case "weekly":
            ends = date.fromordinal(today.toordinal() + 7 - today.weekday())
        case "monthly":
            ends = date(today.year + today.month // 12, today.month % 12 + 1, 1)
        case None:
            return None
    return datetime(ends.year, ends.month, ends.day, tzinfo=UTC)
