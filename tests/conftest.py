"""Shared by all tests. That it stands here also makes `tests/kit` importable as `kit` (pytest's prepend import mode)."""

from collections.abc import Iterator

import pytest
from kit import stores
from kit.postgres_server import PostgresServer


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Where `store_kind` is used (autouse in some folders), what works on a database works on SQLite and on PostgreSQL.

    A test that is marked `sqlite_only` is about SQLite itself; `postgresql_only`, the other one.
    """
    if {"store_kind", "tmp_path"} <= set(metafunc.fixturenames):
        only = [kind for kind in stores.KINDS if metafunc.definition.get_closest_marker(f"{kind}_only")]
        metafunc.parametrize("store_kind", only or stores.KINDS, indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that all tests of this process share. Each takes a database of its own from it, and leaves it running."""
    with stores.server_with_template() as server:
        yield server


@pytest.fixture
def store_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """The kind of database that this test works on."""
    kind: str = getattr(request, "param", "sqlite")
    if kind == "sqlite":
        with stores.working_on(None):
            yield kind
        return
    # A ledger in PostgreSQL has its journal in the working directory, without other word.
    request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
    with stores.working_on(request.getfixturevalue("postgres")):
        yield kind
