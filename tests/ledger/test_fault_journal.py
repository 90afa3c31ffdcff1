"""F41: two processes at one dead process's journal."""

import fcntl
import os
from pathlib import Path

import pytest
from kit.money import grant, money, settlement

from xrouter.ledger.journal import Journal
from xrouter.ledger.operations import Settlement
from xrouter.world import RealWorld


async def test_f41_a_journal_that_another_puts_away_meanwhile_is_no_failure(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before it was removed, locked after. Fails if that fails the sweep and leaks the file."""
    folder = tmp_path_factory.mktemp("journal")
    async with money(folder, RealWorld()) as books:
        await books.ledger.transfer(grant(10_000))
        dead = Journal(folder / "money.db.journal", "dead")
        await dead.add(settlement("g1", 2_000))
        await dead.aclose()
        opened = Journal._open

        def open_late(self: Journal, path: Path, flags: int) -> int:
            descriptor = opened(self, path, flags)
            path.unlink()
            return descriptor

        monkeypatch.setattr(Journal, "_open", open_late)
        before = len(os.listdir("/proc/self/fd"))
        assert await books.ledger.recover_journals() == 0
        assert len(os.listdir("/proc/self/fd")) <= before


async def test_f13_what_is_journaled_while_the_store_comes_back_makes_nothing_be_settled_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Fails where a file that has grown meanwhile is kept whole: each round settles all that was ever journaled."""
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder, "mine")
    asked: list[str] = []

    async def settle(one: Settlement) -> None:
        asked.append(one.generation_id)
        await journal.add(settlement(f"{one.generation_id}, next", 1_000))

    for number in range(3):
        await journal.add(settlement(f"g{number}", 1_000))
    assert await journal.recover(settle) == 3
    assert await journal.recover(settle) == 3
    assert sorted(asked) == ["g0", "g0, next", "g1", "g1, next", "g2", "g2, next"]
    await journal.aclose()
    assert len(list(folder.glob("*.settlements"))) == 1  # with what was added in the second round


async def test_f41_a_file_that_was_set_aside_takes_no_newer_one_with_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Another process has opened the file before it was set aside, and locks it afterwards.

    Fails where the next file has the same name: it is removed with what was added meanwhile.
    """
    folder = tmp_path_factory.mktemp("journal")
    mine, other = Journal(folder, "mine"), Journal(folder, "other")

    async def keep(one: Settlement) -> None:
        """The store has it."""

    await mine.add(settlement("g1", 1_000))
    (path,) = folder.glob("*.settlements")
    mine._files()
    await mine.add(settlement("g2", 1_000))
    page = other._read(path)
    assert page is not None
    assert [one.generation_id for one in page.settlements] == ["g1"]
    other._put_away(page, True)
    assert await mine.recover(keep) == 1
    await mine.aclose()
    await other.aclose()


async def test_f13_a_long_outage_s_settlements_go_in_batches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fails where each waits for the one before: a hundred commits."""
    folder = tmp_path_factory.mktemp("journal")
    async with money(folder, RealWorld()) as books:
        await books.ledger.transfer(grant(1_000_000))
        dead = Journal(folder / "money.db.journal", "dead")
        for number in range(100):
            await dead.add(settlement(f"g{number}", 1_000))
        await dead.aclose()
        batches = books.ledger.batches
        assert await books.ledger.recover_journals() == 100
        assert books.ledger.batches - batches <= 2
        assert (await books.account()).balance_nano == 900_000


async def test_f41_a_file_that_is_just_being_made_is_nobody_elses(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where a file has its name before it is locked: another process removes it, with what is written next."""
    folder = tmp_path_factory.mktemp("journal")
    journal, other = Journal(folder, "mine"), Journal(folder, "other")
    lock = fcntl.flock

    def lock_late(descriptor: int, operation: int) -> None:
        """Between the making of the file and its lock the other process looks for what the dead have left."""
        monkeypatch.setattr(fcntl, "flock", lock)
        for path in other._files():
            page = other._read(path)
            assert page is not None
            other._put_away(page, settled=True)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    await journal.add(settlement("g1", 1_000))
    settled: list[str] = []

    async def settle(one: Settlement) -> None:
        settled.append(one.generation_id)

    assert await journal.recover(settle) == 1
    assert settled == ["g1"]
    await journal.aclose()
    await other.aclose()
    assert list(folder.iterdir()) == []
