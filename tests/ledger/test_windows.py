from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter.ledger.windows import day_of, month_of, resets_at, roll, used_in, week_of
from xrouter.store.key import LimitReset
from xrouter.store.ledger_rows import KeyUsage

EPOCH = date(1970, 1, 1)
days = st.integers(0, 60_000)


def usage(day: int) -> KeyUsage:
    return KeyUsage("k", 0, 1000, day, 100, 300, 700)


@given(days)
def test_weeks_begin_on_monday_and_months_on_the_first(day: int) -> None:
    on = EPOCH + timedelta(days=day)
    assert (week_of(day) != week_of(day - 1)) == (on.weekday() == 0)
    assert (month_of(day) != month_of(day - 1)) == (on.day == 1)


@given(days, st.integers(-400, 400))
def test_windows_begin_anew_forward_and_never_backward(day: int, step: int) -> None:
    """F20: a clock that is set back gives nobody a second window. Fails if `roll` compares by inequality."""
    key = usage(day)
    roll(key, day + step)
    assert key.day == max(day, day + step)
    assert key.day_nano == (100 if step <= 0 else 0)
    same_week, same_month = week_of(day) == week_of(key.day), month_of(day) == month_of(key.day)
    assert key.week_nano == (300 if same_week else 0)
    assert key.month_nano == (700 if same_month else 0)
    assert key.used_nano == 1000


@pytest.mark.parametrize(
    ("reset", "used", "ends"),
    [
        ("daily", 100, datetime(2027, 1, 1, tzinfo=UTC)),
        ("weekly", 300, datetime(2027, 1, 4, tzinfo=UTC)),
        ("monthly", 700, datetime(2027, 1, 1, tzinfo=UTC)),
        (None, 1000, None),
    ],
)
def test_what_counts_and_when_it_ends(reset: LimitReset | None, used: int, ends: datetime | None) -> None:
    key = usage((date(2026, 12, 31) - EPOCH).days)
    assert used_in(key, reset) == used
    assert resets_at(key.day, reset) == ends


def test_days_are_utc() -> None:
    midnight = int(datetime(2026, 1, 2, tzinfo=UTC).timestamp() * 1e6)
    assert day_of(midnight) == day_of(midnight - 1) + 1 == (date(2026, 1, 2) - EPOCH).days
