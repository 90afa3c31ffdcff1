from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kit.keys import HandWorld
from kit.money import Money, money


@pytest.fixture
def world() -> HandWorld:
    return HandWorld()


@pytest.fixture
async def books(tmp_path: Path, world: HandWorld) -> AsyncIterator[Money]:
    """A running ledger with a clock moved by hand. After the test it is closed and proven."""
    async with money(tmp_path, world) as running:
        yield running


@pytest.fixture(autouse=True)
def _both_kinds(store_kind: str) -> None:
    """The tests of this folder run on SQLite and on PostgreSQL."""
