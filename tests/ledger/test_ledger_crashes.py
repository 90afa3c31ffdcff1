"""Processes that are killed, for real: at every statement, and at any moment."""

import asyncio
import random
import signal
import sys
from pathlib import Path

import pytest
from kit import stores
from kit.keys import HandWorld
from kit.money import ACCOUNT, Money, grant, money

from xrouter.world import RealWorld

CHILD = Path(__file__).parents[1] / "kit" / "ledger_child.py"
# Of one hold and one settlement: BEGIN, reads, writes, COMMIT, twice; on SQLite also the PRAGMA between.
STATEMENTS = {"sqlite": 25, "postgresql": 8}


async def child(books: Money, *arguments: object) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    place = stores.current.url(books.path).removeprefix("sqlite:///")
    return await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), place, *map(str, arguments), stdin=pipe, stdout=pipe
    )


def charges(lines: str) -> dict[str, int]:
    """What a process told before its end: generation → charge."""
    words = lines.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


async def expired(path: Path, told: dict[str, int]) -> tuple[int, int]:
    """Another process comes after the lease. Returns how many generations are settled, and how many holds expired."""
    later = HandWorld()
    later.wall_s = RealWorld().now() + 61
    async with money(path.parent, later, name=path.name) as books:  # proves the ledger at its end
        charged = dict(books.rows("SELECT id, charged_nano FROM generations"))
        states = await books.holds()
        assert set(states.values()) <= {"settled", "expired"}
        assert told.items() <= charged.items()  # 0 lost
        entered = books.rows("SELECT generation_id FROM entries WHERE kind = 'charge'")
        assert len(entered) == len({row[0] for row in entered}) == len(charged)  # 0 double
        account = await books.account()
        assert (account.balance_nano, account.held_nano) == (10**9 - 1_000 * len(charged), 0)
        return len(charged), sum(state == "expired" for state in states.values())


async def sweep(books: Money, statements: int) -> list[tuple[int, dict[str, int]]]:
    """Kill a process before each of its statements, the last one not at all; returns what each had told."""
    out, _ = await (await child(books, "sweep", 0, statements)).communicate()
    ends = [line.split(" ", 2) for line in out.decode().splitlines()]
    assert [int(crash_at) for crash_at, _, _ in ends] == list(range(statements + 1))
    codes = [int(code) for _, code, _ in ends]
    assert codes == [-signal.SIGKILL] * statements + [0], "is STATEMENTS still their number?"
    return [(int(crash_at), charges(told)) for crash_at, _, told in ends]


@pytest.mark.sqlite_only
async def test_f18_killed_at_each_statement_it_is_settled_once_or_not_at_all(tmp_path: Path) -> None:
    """Fails if the hold's end and the charge are two transactions, or if the answer comes before the COMMIT."""
    async with money(tmp_path, RealWorld()) as books:
        await books.ledger.transfer(grant(10**9))
    for crash_at, told in await sweep(books, STATEMENTS["sqlite"]):
        settled, dead = await expired(books.path.with_name(f"{books.path.name}.{crash_at}"), told)
        assert settled + dead <= 1
        assert settled == 1 or crash_at < STATEMENTS["sqlite"]


@pytest.mark.postgresql_only
async def test_f18_killed_at_each_statement_to_postgresql_it_is_settled_once_or_not_at_all(tmp_path: Path) -> None:
    """Fails if the hold's end and the charge are two transactions, or if the answer comes before the COMMIT."""
    async with money(tmp_path, RealWorld()) as books:
        await books.ledger.transfer(grant(10**9))
    every: dict[str, int] = {}
    for _, told in await sweep(books, STATEMENTS["postgresql"]):
        every |= told
    settled, dead = await expired(books.path, every)
    # Nothing is left of those that were killed before the hold's COMMIT; from there on, a hold, or in the end a settlement.
    assert settled == len(every) == 1
    assert dead == STATEMENTS["postgresql"] / 2


async def test_f17_f18_killed_at_any_moment_under_load(tmp_path: Path) -> None:
    """Many clients at once, a kill at a random time, several times over on one database."""
    chance = random.Random()
    told: dict[str, int] = {}
    async with money(tmp_path, RealWorld()) as books:
        await books.ledger.transfer(grant(10**9))
        for _ in range(5):
            process = await child(books, "settle", 100_000, 50)
            assert process.stdout is not None
            first = await process.stdout.readline()
            await asyncio.sleep(chance.uniform(0, 0.3))
            process.kill()
            rest, _ = await process.communicate()
            told |= charges((first + rest).decode())
    settled, _ = await expired(books.path, told)
    assert settled >= len(told) > 5


async def test_f33_a_thousand_at_once_on_a_balance_for_a_hundred_from_several_processes(tmp_path: Path) -> None:
    """Fails on check-then-write: reads and writes in two transactions, and no condition in the UPDATE of the account."""
    async with money(tmp_path, RealWorld()) as books:
        await books.ledger.transfer(grant(100 * 7_000 + 6_999))
        processes = [await child(books, "hold", 250, 7_000) for _ in range(4)]
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        results = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
        assert sum(int(out) for out, _ in results) == 100
        account = await books.account()
        assert (account.available_nano, account.held_nano) == (6_999, 700_000)
        assert len(books.rows(f"SELECT 1 FROM holds WHERE state = 'open' AND account = '{ACCOUNT}'")) == 100
