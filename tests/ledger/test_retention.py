"""What is old is dropped: holds that have ended, details of generations. Never an entry, a generation or an open hold."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from kit.keys import HandWorld
from kit.money import ACCOUNT, KEY, Money, grant, settlement

from xrouter import ids
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.opening import open_ledger
from xrouter.ledger.operations import Prune
from xrouter.ledger.proof import prove
from xrouter.store.accounts import Accounts

DAY_S = 24 * 3600
KEEP = Prune(keep_holds_us=10 * DAY_S * 10**6, keep_details_us=20 * DAY_S * 10**6)


@pytest.fixture
async def pruned(books: Money, tmp_path: Path, world: HandWorld) -> AsyncIterator[Money]:
    """A process that drops what is old, and the only one: another might wake first and find this one's lease ended."""
    await books.ledger.aclose()
    ledger = open_ledger(books.engine, world, lease_s=60, journal=tmp_path / "second.journal", retention=KEEP)
    await ledger.start()
    yield replace(books, ledger=ledger)
    await ledger.aclose()


async def requests(ledger: Ledger, world: HandWorld, count: int) -> list[str]:
    """All at once: they go in a few batches. Every third is released, the others are settled."""
    made = [ids.generation_id(world) for _ in range(count)]
    await asyncio.gather(
        *(ledger.hold(one, ACCOUNT, KEY, wanted_nano=2_000, least_nano=2_000) for one in made),
    )
    await asyncio.gather(
        *(
            ledger.release(one) if number % 3 == 2 else ledger.settle(settlement(one, 1_000), delivered=True)
            for number, one in enumerate(made)
        )
    )
    return made


async def test_holds_and_details_go_when_they_are_old_and_nothing_else(pruned: Money, world: HandWorld) -> None:
    await pruned.ledger.transfer(grant(10**9))
    await requests(pruned.ledger, world, 450)
    before = (
        pruned.rows("SELECT * FROM entries ORDER BY id"),
        pruned.rows("SELECT id, charged_nano FROM generations ORDER BY id"),
    )
    await pruned.ledger.prune()
    assert len(await pruned.holds()) == 450
    world.advance(11 * DAY_S)
    young = await requests(pruned.ledger, world, 3)
    await pruned.ledger.prune()
    assert set(await pruned.holds()) == set(young)
    assert pruned.rows("SELECT count(*) FROM generations WHERE details = ''") == [(0,)]
    world.advance(10 * DAY_S + 1)
    await pruned.ledger.prune()
    assert pruned.rows("SELECT count(*) FROM generations WHERE details = ''") == [(300,)]
    assert pruned.rows("SELECT * FROM entries ORDER BY id")[:301] == before[0]
    assert pruned.rows("SELECT id, charged_nano FROM generations ORDER BY id")[:300] == before[1]
    proof = await prove(pruned.engine)
    assert proof.problems == ()
    assert [sentence.rpartition(" ")[2] for sentence in proof.dropped] == [
        "2027-01-15T08:00:00+00:00",
        "2027-01-26T08:00:00+00:00",
    ]
    assert await Accounts(pruned.engine).imbalance_nano() == 0


async def test_an_open_hold_stays_however_old(pruned: Money, world: HandWorld) -> None:
    await pruned.ledger.transfer(grant(10**9))
    one = ids.generation_id(world)
    await pruned.ledger.hold(one, ACCOUNT, KEY, wanted_nano=2_000, least_nano=2_000)
    ended = await requests(pruned.ledger, world, 2)
    world.advance(30 * DAY_S)
    await pruned.ledger.prune()
    assert await pruned.holds() == {one: "open"}
    # A settlement that is sent again after its hold was dropped changes nothing.
    again = await pruned.ledger.settle(settlement(ended[0], 1_000), delivered=True)
    assert again.repeated
    await pruned.ledger.settle(settlement(one, 1_000), delivered=True)
    assert (await prove(pruned.engine)).problems == ()


async def test_nothing_is_dropped_where_all_is_kept(books: Money, world: HandWorld) -> None:
    await books.ledger.transfer(grant(10**9))
    await requests(books.ledger, world, 3)
    world.advance(4000 * DAY_S)
    await books.ledger.prune()
    assert len(await books.holds()) == 3
    assert books.rows("SELECT * FROM retention") == []
