"""Sums by hour and by day agree with the generations to the unit, whatever comes between."""

import asyncio
import random
from pathlib import Path

import pytest
from kit.keys import HandWorld
from kit.money import Money, assert_proven, grant, settlement

from xrouter.ledger.opening import open_ledger

DAY_S = 24 * 3600


@pytest.mark.parametrize("seed", range(4))
async def test_settlements_and_roll_ups_of_two_processes_on_a_restless_clock(
    books: Money, world: HandWorld, tmp_path: Path, seed: int
) -> None:
    """Days pass, and now and then the clock is set back behind what was rolled up already.

    Fails if a settlement adds to the hours alone, or if the roll-up drops the day that has just begun to be summed.
    """
    chance = random.Random(seed)
    other = open_ledger(books.engine, world, lease_s=60, journal=tmp_path / "second.journal")
    await other.start()
    await books.ledger.transfer(grant(10**12))
    number = 0
    for _ in range(12):
        work = []
        for _ in range(chance.randrange(1, 12)):
            number += 1
            ledger = chance.choice((books.ledger, other))
            end = settlement(f"g{number}", 1_000 * chance.randrange(5), key=chance.choice("kl") * 64)
            work += [ledger.settle(end, delivered=True) for _ in range(chance.choice((1, 1, 2)))]
        for ledger in chance.sample((books.ledger, other), chance.randrange(3)):
            work.append(ledger.roll_up())  # type: ignore[arg-type]
        chance.shuffle(work)
        await asyncio.gather(*work)
        world.wall_s += chance.choice((0, 3600, DAY_S, 20 * DAY_S, 63 * DAY_S, -70 * DAY_S))
    await assert_proven(books.engine)
    await other.aclose()
    requests = books.rows("SELECT sum(requests), sum(charged_nano) FROM usage_days")
    assert requests == books.rows("SELECT count(*), sum(charged_nano) FROM generations")
