"""What a process remembers of the ledger's rows is right, or is forgotten: whoever else has written."""

import asyncio
import random
import sqlite3
from pathlib import Path

import pytest
from kit.keys import HandWorld
from kit.money import ACCOUNT, KEY, Money, assert_proven, grant, money, settlement

from xrouter.errors import PaymentRequired
from xrouter.ledger.books import SqliteBooks
from xrouter.ledger.ledger import Ledger
from xrouter.world import RealWorld

pytestmark = pytest.mark.sqlite_only


def statements(books: SqliteBooks) -> list[str]:
    """Those that it runs from now on."""
    said: list[str] = []
    assert books._connection is not None
    books._connection.set_trace_callback(said.append)
    return said


async def test_who_writes_alone_reads_no_row_twice(books: Money) -> None:
    """Fails if what is remembered is thrown away after each transaction."""
    await books.ledger.transfer(grant(100_000))
    await books.hold("g1", 1_000)
    await books.ledger.settle(settlement("g1", 1_000), delivered=True)
    inner = books.ledger._books
    assert isinstance(inner, SqliteBooks)
    said = statements(inner)
    await books.hold("g2", 1_000)
    await books.ledger.settle(settlement("g2", 1_000), delivered=True)
    read = [one for one in said if one.startswith("SELECT") and "json_each" not in one]
    assert read == []


async def test_f33_what_another_process_spends_is_seen(tmp_path: Path) -> None:
    """Fails if `PRAGMA data_version` is not looked at: the account would be spent twice."""
    async with money(tmp_path, RealWorld()) as books:
        await books.ledger.transfer(grant(10_000))
        other = Ledger(SqliteBooks(books.path, RealWorld().now), RealWorld(), lease_s=60)
        await books.hold("g1", 4_000)
        await other.hold("g2", ACCOUNT, KEY, wanted_nano=4_000, least_nano=4_000)
        with pytest.raises(PaymentRequired):
            await books.hold("g3", 4_000)
        await books.ledger.settle(settlement("g1", 1_000), delivered=True)
        granted = await other.hold("g4", ACCOUNT, KEY, wanted_nano=5_000, least_nano=5_000)
        assert granted.payable_nano == 5_000
        await books.ledger.release("g2")
        await books.ledger.release("g4")
        await other.aclose()
        assert (await books.account()).held_nano == 0


async def test_a_limit_that_is_changed_holds_from_the_next_request(books: Money) -> None:
    """Fails if a key's terms are remembered beyond somebody else's commit."""
    await books.ledger.transfer(grant(10_000))
    books.spoil(
        "INSERT INTO api_keys (hash, label, name, account, limit_nano, limit_reset, management, disabled, created_at_us)"
        f" VALUES ('{KEY}', '', '', '{ACCOUNT}', 5000, NULL, 0, 0, 0)"
    )
    assert await books.hold("g1", 3_000) == 3_000
    books.spoil("UPDATE api_keys SET limit_nano = 3500")
    with pytest.raises(PaymentRequired):
        await books.hold("g2", 1_000)
    await books.ledger.release("g1")


async def test_f41_a_hold_that_another_process_expired_is_not_taken_for_open(tmp_path: Path) -> None:
    """Fails if an open hold is remembered beyond somebody else's commit: the charge would be no overrun."""
    world = HandWorld()
    async with money(tmp_path, world, start=False) as books:
        await books.ledger.transfer(grant(10_000))
        await books.hold("g1", 2_000)
        other = Ledger(SqliteBooks(books.path, world.now), world, lease_s=60)
        world.advance(61)
        assert await other.expire() == 1
        settled = await books.ledger.settle(settlement("g1", 1_000), delivered=True)
        assert settled.overrun_nano == 1_000
        assert await books.holds() == {"g1": "expired"}
        await other.aclose()


async def test_after_a_failed_transaction_nothing_is_remembered(books: Money) -> None:
    """Fails if rows that were changed in memory outlive the rollback: the account would miss what nobody was charged."""
    await books.ledger.transfer(grant(10_000))
    await books.hold("g1", 2_000)
    books.spoil("CREATE TRIGGER full BEFORE INSERT ON generations BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    inner = books.ledger._books
    assert isinstance(inner, SqliteBooks)
    with pytest.raises(sqlite3.IntegrityError):
        inner._commit([settlement("g1", 1_000)])
    assert inner._remembered.accounts == {}
    books.spoil("DROP TRIGGER full")
    await books.ledger.settle(settlement("g1", 1_000), delivered=True)
    assert (await books.account()).balance_nano == 9_000


async def test_three_processes_at_random_spend_what_there_is(tmp_path: Path) -> None:
    """Whoever comes next, each with what it remembers: never more than was granted, and the books are proven."""
    chance = random.Random(7)
    async with money(tmp_path, RealWorld()) as books:
        await books.ledger.transfer(grant(200_000))
        others = [Ledger(SqliteBooks(books.path, RealWorld().now), RealWorld(), lease_s=60) for _ in range(2)]
        ledgers = [books.ledger, *others]

        async def client(number: int) -> int:
            charged = 0
            for turn in range(12):
                name, nano = f"g{number}-{turn}", chance.choice((1_000, 5_000, 9_000))
                try:
                    await chance.choice(ledgers).hold(name, ACCOUNT, KEY, wanted_nano=nano, least_nano=nano)
                except PaymentRequired:
                    continue
                ended = chance.choice(ledgers)
                if chance.random() < 0.3:
                    await ended.release(name)
                else:
                    settled = await ended.settle(settlement(name, nano), delivered=True)
                    charged += settled.charged_nano
            return charged

        spent = sum(await asyncio.gather(*map(client, range(10))))
        account = await books.account()
        assert (account.balance_nano, account.held_nano) == (200_000 - spent, 0)
        assert spent > 150_000
        for other in others:
            await other.aclose()
        await assert_proven(books.engine)


async def test_more_rows_than_are_remembered(books: Money, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if what is open is forgotten with the accounts, or nothing is."""
    monkeypatch.setattr("xrouter.store.remembered._MOST_ROWS", 4)
    for number in range(6):
        await books.ledger.transfer(grant(10_000, f"a{number}"))
        await books.ledger.hold(f"g{number}", f"a{number}", f"k{number}", wanted_nano=1_000, least_nano=1_000)
    inner = books.ledger._books
    assert isinstance(inner, SqliteBooks)
    remembered = inner._remembered
    assert len(remembered.accounts) + len(remembered.keys) + len(remembered.terms) < 10
    assert len(remembered.holds) == 6
    for number in range(6):
        end = settlement(f"g{number}", 1_000, account=f"a{number}", key=f"k{number}")
        assert (await books.ledger.settle(end, delivered=True)).charged_nano == 1_000
    assert remembered.holds == {}
