"""F41: two processes at one dead process's journal."""

import os
from pathlib import Path

import pytest
from kit.money import grant, money, settlement

from xrouter.ledger.journal import Journal
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
