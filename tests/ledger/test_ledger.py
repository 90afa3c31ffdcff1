import asyncio
from pathlib import Path

import pytest
from kit.keys import HandWorld, make_key
from kit.money import ACCOUNT, COSTLY, KEY, Money, assert_proven, grant, money, settlement

from xrouter.errors import BadRequest, InternalError, NotFound, PaymentRequired, Unprocessable
from xrouter.ledger.operations import Transfer
from xrouter.store.key import NewKey


async def test_a_request_is_held_and_charged(books: Money) -> None:
    await books.ledger.transfer(grant(10_000))
    assert await books.hold("g1", 7_000) == 7_000
    account = await books.account()
    assert (account.balance_nano, account.held_nano, account.available_nano) == (10_000, 7_000, 3_000)
    settled = await books.ledger.settle(settlement("g1", 4_000), delivered=True)
    assert (settled.charged_nano, settled.overrun_nano, settled.repeated) == (4_000, 0, False)
    account = await books.account()
    assert (account.balance_nano, account.held_nano) == (6_000, 0)
    assert await books.holds() == {"g1": "settled"}
    assert (await books.account("@revenue")).balance_nano == 4_000
    assert (await books.account("@promotions")).balance_nano == -10_000


async def test_what_the_provider_asks_is_booked_beside_the_charge(books: Money) -> None:
    await books.ledger.transfer(grant(10_000))
    await books.hold("g1", 4_000)
    end = settlement("g1", 4_000, price=COSTLY, provider_cost_nano=2_000)
    await books.ledger.settle(end, delivered=True)
    assert (await books.account("@providers")).balance_nano == 2_000
    assert (await books.account("@provider_cost")).balance_nano == -2_000
    assert books.rows("SELECT since, first_used_at_us > 0 FROM prices") == [("2026-02-01", 1)]


async def test_a_repeated_settlement_changes_nothing(books: Money) -> None:
    await books.ledger.transfer(grant(10_000))
    await books.hold("g1", 7_000)
    first = await books.ledger.settle(settlement("g1", 4_000), delivered=True)
    for other in (4_000, 5_000, None):
        again = await books.ledger.settle(settlement("g1", other), delivered=True)
        assert again.repeated
        assert (again.charged_nano, again.cost_nano) == (first.charged_nano, first.cost_nano)
    assert (await books.account()).balance_nano == 6_000
    # In one batch, too:
    await books.hold("g2", 1_000)
    both = await asyncio.gather(*(books.ledger.settle(settlement("g2", 1_000), delivered=True) for _ in range(20)))
    assert sorted(settled.repeated for settled in both) == [False] + [True] * 19
    assert (await books.account()).balance_nano == 5_000


async def test_a_hold_is_opened_once(books: Money) -> None:
    await books.ledger.transfer(grant(10_000))
    assert await books.hold("g1", 7_000) == 7_000
    assert await books.hold("g1", 7_000) == 7_000  # its first answer was lost
    assert (await books.account()).held_nano == 7_000
    await books.ledger.release("g1")
    with pytest.raises(InternalError):
        await books.hold("g1", 7_000)


async def test_a_hold_that_cannot_be_afforded_is_refused_and_says_why(books: Money) -> None:
    await books.ledger.transfer(grant(10_000_000_000))
    await books.hold("g1", 8_000_000_000)
    with pytest.raises(PaymentRequired) as caught:
        await books.hold("g2", 2_000_000_001)
    assert caught.value.metadata["limit"] == "account"
    assert caught.value.metadata["remaining"] == "2"
    assert caught.value.metadata["needed"] == "2.000000001"
    assert caught.value.retry_after_s == 1.0  # what is held for others may come back
    assert "2 left" in caught.value.message
    with pytest.raises(PaymentRequired) as caught:
        await books.hold("g3", 11_000_000_000)
    assert caught.value.retry_after_s is None
    assert await books.hold("g4", 5_000_000_000, least=1) == 2_000_000_000  # an elastic one takes what there is


async def test_an_account_that_nobody_knows_has_nothing(books: Money) -> None:
    with pytest.raises(PaymentRequired):
        await books.hold("g1", 1)
    assert books.rows("SELECT count(*) FROM accounts WHERE kind = 'owner'") == [(0,)]


async def test_a_hold_grows_as_far_as_the_balance_goes(books: Money) -> None:
    await books.ledger.transfer(grant(10_000))
    await books.hold("g1", 1_000)
    granted = await books.ledger.extend("g1", more_nano=2_000, least_nano=500)
    assert (granted.amount_nano, granted.payable_nano) == (3_000, 10_000)
    granted = await books.ledger.extend("g1", more_nano=20_000, least_nano=500)
    assert (granted.amount_nano, granted.payable_nano) == (10_000, 10_000)
    with pytest.raises(PaymentRequired):
        await books.ledger.extend("g1", more_nano=2_000, least_nano=1)
    assert (await books.account()).held_nano == 10_000
    await books.ledger.settle(settlement("g1", 10_000), delivered=True)
    with pytest.raises(PaymentRequired, match="released"):
        await books.ledger.extend("g1", more_nano=1, least_nano=1)
    with pytest.raises(PaymentRequired, match="released"):
        await books.ledger.extend("unknown", more_nano=1, least_nano=1)


async def test_an_overrun_is_an_entry_of_its_own_and_stops_at_the_floor(books: Money) -> None:
    await books.ledger.transfer(grant(10_000))
    await books.hold("g1", 2_000)
    settled = await books.ledger.settle(settlement("g1", 5_000), delivered=True)
    assert (settled.charged_nano, settled.overrun_nano) == (5_000, 3_000)
    await books.hold("g2", 1_000)
    await books.hold("g3", 2_000)  # of another request: not for g2's overrun
    settled = await books.ledger.settle(settlement("g2", 9_000), delivered=True)
    assert (settled.cost_nano, settled.charged_nano, settled.overrun_nano) == (9_000, 3_000, 2_000)
    account = await books.account()
    assert (account.balance_nano, account.held_nano) == (2_000, 2_000)
    entered = books.rows("SELECT kind, amount_nano FROM entries WHERE generation_id = 'g2'")
    assert entered == [("charge", 1_000), ("overrun", 2_000)]


async def test_nothing_generated_releases_the_hold_and_leaves_a_receipt(books: Money) -> None:
    await books.ledger.transfer(grant(10_000))
    await books.hold("g1", 2_000)
    await books.ledger.settle(settlement("g1", None), delivered=False)
    assert await books.holds() == {"g1": "released"}
    assert books.rows("SELECT charged_nano, input_tokens, hold_nano FROM generations") == [(0, None, 2_000)]
    assert (await books.account()).available_nano == 10_000


async def test_a_free_request_needs_no_hold_and_no_account(books: Money) -> None:
    settled = await books.ledger.settle(settlement("g1", 0), delivered=True)
    assert settled.charged_nano == 0
    assert (await books.ledger.settle(settlement("g1", 0), delivered=True)).repeated


@pytest.mark.parametrize(("reset", "name"), [(None, "key_total"), ("daily", "key_daily"), ("monthly", "key_monthly")])
async def test_a_key_has_its_own_limit(books: Money, world: HandWorld, reset: str | None, name: str) -> None:
    new = NewKey(name="n", account=ACCOUNT, limit_nano=5_000, limit_reset=reset)  # type: ignore[arg-type]
    key = (await make_key(books.engine, world, new)).key.hash
    await books.ledger.transfer(grant(100_000))
    await books.hold("g1", 3_000, key=key)
    with pytest.raises(PaymentRequired) as caught:
        await books.hold("g2", 3_000, key=key)
    assert caught.value.metadata["limit"] == name
    assert caught.value.metadata["remaining"] == "0.000002"
    assert caught.value.retry_after_s == 1.0
    await books.ledger.settle(settlement("g1", 3_000, key=key), delivered=True)
    assert await books.hold("g3", 3_000, least=1, key=key) == 2_000
    await books.ledger.release("g3")
    world.advance(40 * 24 * 3600)
    if reset is None:
        with pytest.raises(PaymentRequired):
            await books.hold("g4", 5_000, key=key)
    else:
        assert await books.hold("g4", 5_000, key=key) == 5_000


async def test_a_limit_tells_when_it_begins_anew(books: Money, world: HandWorld) -> None:
    new = NewKey(name="n", account=ACCOUNT, limit_nano=5_000, limit_reset="weekly")
    key = (await make_key(books.engine, world, new)).key.hash
    await books.ledger.transfer(grant(100_000))
    with pytest.raises(PaymentRequired, match="weekly limit") as caught:
        await books.hold("g", 5_001, key=key)
    assert caught.value.metadata["resets_at"] == "2027-01-18T00:00:00+00:00"  # the clock says Friday, 2027-01-15


async def test_grants_are_positive_and_named_ones_happen_once(books: Money) -> None:
    for _ in range(3):
        await books.ledger.transfer(grant(5_000, key="order-1"))
    assert (await books.account()).balance_nano == 5_000
    results = await asyncio.gather(*(books.ledger.transfer(grant(7_000, key="order-2")) for _ in range(50)))
    assert {balance.balance_nano for balance in results} == {12_000}
    for wrong in (grant(6_000, key="order-1"), grant(5_000, "other", key="order-1")):
        with pytest.raises(Unprocessable, match="idempotency key"):
            await books.ledger.transfer(wrong)
    for amount in (0, -1):
        with pytest.raises(BadRequest):
            await books.ledger.transfer(grant(amount))
    with pytest.raises(BadRequest, match="cannot hold"):
        await books.ledger.transfer(grant(2**62 + 1))
    with pytest.raises(BadRequest, match="own accounts"):
        await books.ledger.transfer(grant(1, "@revenue"))


async def test_balances_stay_within_64_bits(books: Money) -> None:
    """I8. Fails without the capacity check: SQLite would be given an integer that it cannot hold."""
    await books.ledger.transfer(grant(2**62))
    await books.ledger.transfer(grant(2**62 - 1, "other"))
    with pytest.raises(BadRequest, match="cannot hold"):
        await books.ledger.transfer(grant(1))


async def test_refunds_give_back_no_more_than_was_charged(books: Money) -> None:
    await books.ledger.transfer(grant(10_000))
    await books.hold("g1", 4_000)
    await books.ledger.settle(settlement("g1", 4_000), delivered=True)

    def refund(amount: int, generation: str = "g1", account: str = ACCOUNT) -> Transfer:
        return Transfer(
            kind="refund", account=account, amount_nano=amount, reason="r", author="a", generation_id=generation
        )

    await books.ledger.transfer(refund(1_000))
    results = await asyncio.gather(*(books.ledger.transfer(refund(1_000)) for _ in range(9)), return_exceptions=True)
    assert sum(isinstance(result, BadRequest) for result in results) == 6
    assert (await books.account()).balance_nano == 10_000
    for wrong in (refund(1, "g9"), refund(1, account="other")):
        with pytest.raises(NotFound):
            await books.ledger.transfer(wrong)


async def test_an_adjustment_may_take_an_account_below_its_floor_and_then_nothing_is_admitted(
    tmp_path: Path, world: HandWorld
) -> None:
    async with money(tmp_path, world) as books:
        await books.ledger.transfer(grant(1_000))
        clawed = Transfer(kind="adjustment", account=ACCOUNT, amount_nano=-3_000, reason="chargeback", author="a")
        assert (await books.ledger.transfer(clawed)).balance_nano == -2_000
        with pytest.raises(PaymentRequired):
            await books.hold("g1", 0, least=0)
        back = Transfer(kind="adjustment", account=ACCOUNT, amount_nano=3_000, reason="won", author="a")
        assert (await books.ledger.transfer(back)).balance_nano == 1_000


async def test_one_operation_that_is_refused_leaves_its_batch_alone(books: Money) -> None:
    await books.ledger.transfer(grant(10_000))
    batches = books.ledger.batches
    results = await asyncio.gather(
        *(books.hold(f"g{number}", 3_000) for number in range(5)),
        books.ledger.transfer(grant(-1)),
        books.ledger.extend("nobody", more_nano=1, least_nano=1),
        books.ledger.settle(settlement("free", 0), delivered=True),
        return_exceptions=True,
    )
    assert books.ledger.batches == batches + 1  # it was one batch: what comes in one turn of the loop
    assert results[:3] == [3_000] * 3
    assert [type(result) for result in results[3:7]] == [PaymentRequired, PaymentRequired, BadRequest, PaymentRequired]
    assert (await books.account()).held_nano == 9_000


async def test_what_comes_while_a_batch_is_under_way_makes_the_next_one(books: Money) -> None:
    await books.ledger.transfer(grant(10**9))
    before = books.ledger.batches
    waves = [asyncio.create_task(books.hold(f"g{number}", 1)) for number in range(100)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waves += [asyncio.create_task(books.hold(f"h{number}", 1)) for number in range(100)]
    await asyncio.gather(*waves)
    assert books.ledger.batches - before <= 3


async def test_a_cancelled_hold_is_undone_and_a_cancelled_settlement_is_done(books: Money) -> None:
    """Style lesson 9, incident I-22. Fails if `hold` or `settle` are awaited without their owned tasks."""
    await books.ledger.transfer(grant(10_000))
    await books.hold("g1", 2_000)
    for turns in range(6):
        holding = asyncio.create_task(books.hold(f"h{turns}", 1_000))
        for _ in range(turns):
            await asyncio.sleep(0)
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
    settling = asyncio.create_task(books.ledger.settle(settlement("g1", 2_000), delivered=True))
    await asyncio.sleep(0)
    for _ in range(3):
        settling.cancel()
        await asyncio.sleep(0)
    assert settling.cancelled()
    await books.ledger.aclose()
    assert set((await books.holds()).values()) <= {"settled", "released"}
    account = await books.account()
    assert (account.balance_nano, account.held_nano) == (8_000, 0)
    await assert_proven(books.engine)


async def test_entries_cannot_be_changed(books: Money) -> None:
    """Invariant I7."""
    await books.ledger.transfer(grant(10_000))
    for change in ("UPDATE entries SET amount_nano = 1", "DELETE FROM entries"):
        with pytest.raises(Exception, match="append-only"):
            books.spoil(change)


async def test_sums_of_usage_follow_each_settlement(books: Money, world: HandWorld) -> None:
    await books.ledger.transfer(grant(100_000))
    for number in range(5):
        await books.ledger.settle(settlement(f"g{number}", 1_000), delivered=True)
    world.advance(3600)
    await books.ledger.settle(settlement("later", 2_000), delivered=True)
    sums = books.rows("SELECT requests, input_tokens, charged_nano, key_hash FROM usage_hours ORDER BY hour")
    assert sums == [(5, 5, 5_000, KEY), (1, 2, 2_000, KEY)]


async def test_old_hours_are_dropped_and_days_stay(books: Money, world: HandWorld) -> None:
    """Each of two settlements on each of three days; the fixture's proof holds both tables against the generations."""
    await books.ledger.transfer(grant(100_000))
    for day in range(3):
        for hour in range(2):
            await books.ledger.settle(settlement(f"g{day}-{hour}", 1_000), delivered=True)
            await books.ledger.settle(settlement(f"h{day}-{hour}", 1_000, key="other"), delivered=True)
            world.advance(3600)
        world.advance(22 * 3600)
    await books.ledger.roll_up()
    assert books.rows("SELECT count(*) FROM usage_hours") == [(12,)]
    world.advance(61 * 24 * 3600)  # the second day is 63 days ago, the third 62
    await books.ledger.roll_up()
    days = books.rows("SELECT day, key_hash, requests, charged_nano FROM usage_days ORDER BY day, key_hash")
    first = days[0][0]
    assert days == [(first + day, key, 2, 2_000) for day in (0, 1, 2) for key in (KEY, "other")]
    assert books.rows("SELECT sum(charged_nano), count(*) FROM usage_hours") == [(4_000, 4)]
