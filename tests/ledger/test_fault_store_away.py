"""The store away for longer than a lease (found by the model: docs/ledger-model.md)."""

import asyncio
import sqlite3
from contextlib import closing

import pytest
from kit.keys import HandWorld
from kit.money import ACCOUNT, KEY, grant, money, settlement

from xrouter.errors import StoreUnavailable
from xrouter.ledger.opening import open_ledger
from xrouter.ledger.operations import ReleaseHold


async def test_f13_an_outage_longer_than_a_lease_expires_no_living_hold(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Fails if a sweep that failed does not keep the next ones from expiring: who swept first ended the others' holds."""
    world = HandWorld()
    async with money(tmp_path_factory.mktemp("away"), world) as books:
        await books.ledger.transfer(grant(10_000))
        other = open_ledger(books.engine, world, lease_s=60)
        await other.renew()
        await other.hold("g1", ACCOUNT, KEY, wanted_nano=1_000, least_nano=1_000)
        sweeper = books.ledger._sweeper
        with closing(sqlite3.connect(books.path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")  # and it does not end
            await world.asleep.wait()
            world.advance(61)
            async with asyncio.timeout(30):
                while not sweeper._failing:
                    await asyncio.sleep(0.01)
            try:
                await other.renew()
            except StoreUnavailable:
                pass
            else:
                raise AssertionError("the store is not away")
        await sweeper.sweep()  # this process is the first; the other's lease has ended
        assert (await books.holds())["g1"] == "open"
        await other.renew()
        world.advance(61)  # and if the other had not been there any more
        await sweeper.sweep()
        assert (await books.holds())["g1"] == "expired"
        await other.settle(settlement("g1", 1_000), delivered=True)
        assert (await books.account()).balance_nano == 9_000
        await other.aclose()


async def test_f13_what_an_outage_has_put_off_is_done_in_batches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fails where each waits for the one before: with a thousand the sweeper renews no lease, and living holds expire."""
    async with money(tmp_path_factory.mktemp("away"), HandWorld()) as books:
        await books.ledger.transfer(grant(1_000_000))
        for number in range(200):
            await books.hold(f"g{number}", 1_000)
            books.ledger._put_off.append(ReleaseHold(f"g{number}"))
        batches = books.ledger.batches
        await books.ledger.catch_up()
        assert books.ledger.batches - batches <= 2
        assert set((await books.holds()).values()) == {"released"}
        assert not books.ledger._put_off
