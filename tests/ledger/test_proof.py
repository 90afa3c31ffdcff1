"""The proof finds every way in which rows can be wrong, and names the row."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kit import stores
from kit.keys import HandWorld
from kit.money import ACCOUNT, COSTLY, KEY, Money, grant, money, settlement

from xrouter.ledger.operations import Transfer
from xrouter.ledger.proof import prove
from xrouter.store.engine import create_engine

NO_TRIGGERS = {
    "sqlite": "DROP TRIGGER entries_forbid_update; DROP TRIGGER entries_forbid_delete;",
    "postgresql": "DROP TRIGGER entries_forbid_change ON entries;",
}


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Money]:
    """A ledger with every kind of row in it."""
    world = HandWorld()
    async with money(tmp_path, world) as running:
        ledger = running.ledger
        await ledger.transfer(grant(100_000))
        await running.hold("settled", 5_000)
        await ledger.settle(settlement("settled", 5_000, price=COSTLY, provider_cost_nano=2_500), delivered=True)
        await running.hold("overrun", 1_000)
        await ledger.settle(settlement("overrun", 4_000), delivered=True)
        refund = Transfer(
            kind="refund", account=ACCOUNT, amount_nano=500, reason="r", author="a", generation_id="settled"
        )
        await ledger.transfer(refund)
        await running.hold("nothing", 1_000)
        await ledger.settle(settlement("nothing", None), delivered=False)
        await running.hold("released", 1_000)
        await ledger.release("released")
        await running.hold("open", 3_000)
        yield running
        await ledger.release("open")


async def test_a_ledger_that_is_right_is_proven(books: Money) -> None:
    proof = await prove(books.engine)
    assert proof.problems == ()
    assert (proof.ok, proof.sum_nano, proof.generations, proof.holds_open) == (True, 0, 3, 1)
    assert proof.entries == 6  # grant, charge, cost, charge, overrun, refund


SPOILED = [
    # what is changed, what the proof says
    ("UPDATE accounts SET balance_nano = balance_nano + 1 WHERE name = 'acme'", "all balances together"),
    (
        "UPDATE accounts SET balance_nano = balance_nano + 1 WHERE name = 'acme';"
        "UPDATE accounts SET balance_nano = balance_nano - 1 WHERE name = '@revenue'",
        "account acme has the balance 0.000091501, its entries give 0.0000915",
    ),
    ("UPDATE accounts SET held_nano = held_nano + 7 WHERE name = 'acme'", "account acme has 0.000003007 held"),
    (f"UPDATE key_usage SET held_nano = 0 WHERE key_hash = '{KEY}'", f"key {KEY} has 0 held"),
    ("UPDATE holds SET amount_nano = 1 WHERE generation_id = 'open'", "its open holds are 0.000000001"),
    (
        "UPDATE holds SET closed_at_us = 1 WHERE generation_id = 'open'",
        "the hold of open is open and its end contradicts",
    ),
    (
        "UPDATE holds SET state = 'settled' WHERE generation_id = 'released'",
        "released is settled, but there is no such",
    ),
    (
        "UPDATE holds SET state = 'open', closed_at_us = NULL WHERE generation_id = 'settled'",
        "generation settled is settled, its hold is still open",
    ),
    ("UPDATE generations SET charged_nano = 4999 WHERE id = 'settled'", "generation settled charges 0.000004999"),
    ("UPDATE generations SET hold_nano = 10 WHERE id = 'overrun'", "generation overrun charges 0.000004"),
    ("UPDATE generations SET input_tokens = 6 WHERE id = 'settled'", "usage and price"),
    ("UPDATE generations SET input_tokens = -6 WHERE id = 'settled'", "token counts that cannot be right"),
    ("UPDATE generations SET provider_cost_nano = 2501 WHERE id = 'settled'", "generation settled"),
    ("UPDATE generations SET price_version = 'lost' WHERE id = 'settled'", "price lost, which does not exist"),
    ("UPDATE key_usage SET used_nano = used_nano - 1", f"key {KEY} has spent"),
    ("UPDATE key_usage SET week_nano = week_nano + 1", f"key {KEY} has spent"),
    ("DELETE FROM key_usage", "what it has spent is not kept"),
    ("UPDATE usage_days SET input_tokens = input_tokens + 1", "the sums of usage of account acme"),
    ("DELETE FROM usage_days", "the sums of usage of account acme"),
    ("UPDATE usage_days SET model = 'a/other'", "are kept, but there are no such generations"),
    ("UPDATE usage_hours SET output_tokens = output_tokens + 1", "the sums by hour of account acme"),
    ("UPDATE usage_hours SET upstream = 'other'", "the sums by hour of account acme"),
    ("DELETE FROM entries WHERE kind = 'overrun'", "its entries are charge, overrun, cost, refund"),
    ("UPDATE entries SET amount_nano = 9000 WHERE kind = 'refund'", "generation settled"),
    ("UPDATE entries SET generation_id = 'unknown' WHERE kind = 'cost'", "unknown, which does not exist"),
    ("DELETE FROM entries WHERE kind IN ('grant', 'refund')", "@promotions has the balance"),
    ("DELETE FROM accounts WHERE name = '@providers'", "account @providers has entries but does not exist"),
]


@pytest.mark.parametrize(("spoil", "told"), SPOILED)
async def test_each_wrong_row_is_named(books: Money, spoil: str, told: str, store_kind: str) -> None:
    await books.ledger.release("none")  # whatever was under way is written
    copy = books.path.with_name("copy.db")
    stores.current.copy(books.path, copy)
    Money(books.engine, books.ledger, copy).spoil(NO_TRIGGERS[store_kind] + spoil)
    engine = create_engine(stores.current.url(copy))
    proof = await prove(engine)
    await engine.dispose()
    assert not proof.ok
    assert any(told in problem for problem in proof.problems), proof.problems
