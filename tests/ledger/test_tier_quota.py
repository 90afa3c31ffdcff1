"""What a tier lets each of its keys spend: `tiers.*.quota`."""

import asyncio
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.keys import HandWorld, make_key
from kit.money import ACCOUNT, Money, grant, settlement

from xrouter.config.settings import TierQuota
from xrouter.errors import PaymentRequired
from xrouter.ledger.limits import SpendingLimit, left_of, quota_limits
from xrouter.ledger.windows import roll
from xrouter.store.key import NewKey
from xrouter.store.ledger_rows import KeyUsage

FREE = quota_limits("free", TierQuota(day=Decimal("10"), total=Decimal("25")))


async def hold(books: Money, generation_id: str, credits: int, *, key: str, least: int | None = None) -> int:
    granted = await books.ledger.hold(
        generation_id,
        ACCOUNT,
        key,
        wanted_nano=credits * 10**9,
        least_nano=(credits if least is None else least) * 10**9,
        quota=FREE,
    )
    return granted.amount_nano // 10**9


async def spend(books: Money, generation_id: str, credits: int, key: str) -> None:
    await hold(books, generation_id, credits, key=key)
    await books.ledger.settle(settlement(generation_id, credits * 10**9, key=key), delivered=True)


def test_a_quota_is_a_limit_for_each_window_that_it_names() -> None:
    assert quota_limits("pro", TierQuota()) == ()
    assert quota_limits("pro", TierQuota(week=Decimal("0.000000001"), month=Decimal("9223372035"))) == (
        SpendingLimit(1, "weekly", "pro"),
        SpendingLimit(9_223_372_035 * 10**9, "monthly", "pro"),
    )


async def test_a_refusal_says_which_quota_how_much_is_left_and_when_it_begins_anew(
    books: Money, world: HandWorld
) -> None:
    await books.ledger.transfer(grant(1000 * 10**9))
    await spend(books, "g1", 7, "k")
    with pytest.raises(PaymentRequired) as caught:
        await hold(books, "g2", 4, key="k")
    assert caught.value.message == (
        "The quota is reached (tier free: 10 credits a day): this request needs up to 4 credits, 3 are left;"
        " it begins anew at 2027-01-16T00:00:00+00:00"
    )
    assert (
        caught.value.metadata.items()
        >= {
            "limit": "tier_daily",
            "needed": "4",
            "remaining": "3",
            "held": "0",
            "resets_at": "2027-01-16T00:00:00+00:00",
        }.items()
    )
    assert await hold(books, "g3", 4, key="k", least=1) == 3
    with pytest.raises(PaymentRequired):
        await books.ledger.extend("g3", more_nano=1, least_nano=1, quota=FREE)
    await books.ledger.release("g3")
    await spend(books, "g4", 10, "another key")
    world.advance(24 * 3600)
    await spend(books, "g5", 10, "k")
    world.advance(24 * 3600)
    with pytest.raises(PaymentRequired, match="25 credits in all") as caught:
        await hold(books, "g6", 9, key="k")
    assert (caught.value.metadata["limit"], caught.value.metadata["remaining"]) == ("tier_total", "8")


async def test_the_key_s_own_limit_holds_beside_the_quota(books: Money, world: HandWorld) -> None:
    await books.ledger.transfer(grant(1000 * 10**9))
    new = NewKey(name="n", account=ACCOUNT, limit_nano=2 * 10**9)
    key = (await make_key(books.engine, world, new)).key.hash
    with pytest.raises(PaymentRequired) as caught:
        await hold(books, "g1", 3, key=key)
    assert caught.value.metadata["limit"] == "key_total"


async def test_f33_a_thousand_parallel_requests_on_a_quota_for_a_hundred(books: Money) -> None:
    """Fails if `left` is taken from the account alone: all thousand are then admitted."""
    await books.ledger.transfer(grant(10_000 * 10**9))
    quota = quota_limits("free", TierQuota(day=Decimal(100)))
    results = await asyncio.gather(
        *(
            books.ledger.hold(f"g{number}", ACCOUNT, "k", wanted_nano=10**9, least_nano=10**9, quota=quota)
            for number in range(1000)
        ),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, PaymentRequired)]
    assert (len(results) - len(refused), len(refused)) == (100, 900)
    assert books.rows("SELECT held_nano FROM key_usage") == [(100 * 10**9,)]


amounts = st.none() | st.integers(0, 50)


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(amounts, amounts, amounts, amounts),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=30),
)
def test_no_window_ever_holds_more_than_its_quota(
    quota: tuple[int | None, ...], requests: list[tuple[int, int]]
) -> None:
    """Requests of (days later, nanocredits), admitted as the ledger admits them, held against every window added up anew.

    Fails if `used_in` reads another window than the limit's, or if a window is not rolled.
    """
    decimals = [None if amount is None else Decimal(amount).scaleb(-9) for amount in quota]
    limits = quota_limits("t", TierQuota(**dict(zip(("total", "day", "week", "month"), decimals, strict=True))))
    day = 20_000
    usage = KeyUsage("k", 0, 0, day, 0, 0, 0)
    admitted: list[tuple[int, int]] = []
    for later, nano in requests:
        day += later
        roll(usage, day)
        fits = all(left_of(limit, usage) >= nano for limit in limits)
        on = date(1970, 1, 1) + timedelta(days=day)
        windows = {
            "total": admitted,
            "day": [one for one in admitted if one[0] == day],
            "week": [one for one in admitted if _on(one[0]).isocalendar()[:2] == on.isocalendar()[:2]],
            "month": [one for one in admitted if (_on(one[0]).year, _on(one[0]).month) == (on.year, on.month)],
        }
        expected = all(
            amount is None or sum(spent for _, spent in windows[name]) + nano <= amount
            for name, amount in zip(("total", "day", "week", "month"), quota, strict=True)
        )
        assert fits == expected
        if fits:
            admitted.append((day, nano))
            usage.used_nano += nano
            usage.day_nano += nano
            usage.week_nano += nano
            usage.month_nano += nano


def _on(day: int) -> date:
    return date(1970, 1, 1) + timedelta(days=day)
