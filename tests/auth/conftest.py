from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kit.keys import HandWorld, fresh_engine
from sqlalchemy.ext.asyncio import AsyncEngine


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = await fresh_engine(tmp_path)
    yield engine
    await engine.dispose()


@pytest.fixture
def world() -> HandWorld:
    return HandWorld()


@pytest.fixture(autouse=True)
def _both_kinds(store_kind: str) -> None:
    """The tests of this folder run on SQLite and on PostgreSQL."""
