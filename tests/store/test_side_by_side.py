"""F42: a program on the schema of the next version, whose migration only adds."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from kit import stores
from kit.gateway import new_key, running_gateway
from kit.serving import command, serving
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.store import migrate
from xrouter.store.engine import StoreError, create_engine
from xrouter.store.migrate import NEWEST, current, downgrade, require_current, upgrade

NEXT = f"{int(NEWEST) + 1:04d}"
MIGRATION = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{NEXT}", "{NEWEST}"
LOSES = "what the tests have added"
EXPANDS = True
TABLES = ("api_keys", "accounts", "entries", "holds", "holders", "generations", "prices", "key_usage", "usage_hours",
          "usage_days", "revisions", "retention", "key_roots", "idempotent_requests", "idempotent_answers")


def upgrade():
    op.create_table("added", sa.Column("id", sa.Integer, primary_key=True))
    op.create_index("ix_added", "generations", ["model"])
    for table in TABLES:
        op.add_column(table, sa.Column("added_null", sa.String(10), nullable=True))
        op.add_column(table, sa.Column("added_default", sa.BigInteger(), nullable=False, server_default="7"))


def downgrade():
    op.drop_index("ix_added", "generations")
    op.drop_table("added")
    for table in TABLES:
        op.drop_column(table, "added_default")
        op.drop_column(table, "added_null")
"""
CONFIG = """
server: {port: 0, drain_s: 5}
upstreams:
  local: {provider: openai, base_url: "${LOCAL_BASE_URL}", api_key: "${LOCAL_API_KEY}"}
models:
  paid/chat: {price: {input: "1", output: "2"}, routes: [{upstream: local, model: sandbox-large}]}
filters: [auth, body, routing, token_count, quota]
"""
BODY = {"model": "paid/chat", "messages": [{"role": "user", "content": "Столица Перу?"}], "max_tokens": 5}
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@contextmanager
def as_next_version(folder: Path, migration: str = MIGRATION) -> Iterator[None]:
    """In the block this process is the version after this one. Others that it starts are not."""
    if not (package := folder / "next").exists():
        shutil.copytree(Path(migrate.__file__).parent / "migrations", package / "migrations")
    (package / "migrations" / "versions" / f"r{NEXT}_next.py").write_text(migration)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "__file__", str(package / "migrate.py"))
        patch.setattr(migrate, "NEWEST", NEXT)
        migrate._scripts.cache_clear()
        yield
    migrate._scripts.cache_clear()


@contextmanager
def load_on(url: str, key: str) -> Iterator[threading.Semaphore]:
    """A client that asks without end; the semaphore counts answers. None fails.

    On a starved machine PostgreSQL may lock the tables that it changes for longer than a hold waits (0.8 s). That is told
    with 503, and the client asks again, as SDKs do.
    """
    over, answers, failed, told_to_wait = threading.Event(), threading.Semaphore(0), [], 0

    def client() -> None:
        nonlocal told_to_wait
        with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_S) as http:
            while not over.is_set():
                response = http.post("/v1/chat/completions", json=BODY)
                if response.status_code == 503 and response.json()["error"]["type"] == "store_unavailable":
                    told_to_wait += 1
                    continue
                if response.status_code != 200:
                    failed.append(response.text)
                answers.release()

    thread = threading.Thread(target=client)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()
    assert failed == []
    assert told_to_wait <= 3


def some(answers: threading.Semaphore) -> None:
    for _ in range(5):
        assert answers.acquire(timeout=PATIENCE_S)


async def upgraded(url: str) -> str | None:
    engine = create_engine(url)
    try:
        await upgrade(engine)
        return await current(engine)
    finally:
        await engine.dispose()


def test_f42_old_and_new_version_serve_side_by_side_on_the_new_schema(sandbox: Sandbox, tmp_path: Path) -> None:
    """The schema changes under the old version; it goes on, starts again, and serves beside the new one.

    Fails where a program refuses every schema but its own.
    """
    config, new = tmp_path / "old.yaml", tmp_path / "new"
    store = stores.current.url(tmp_path / "store.db")
    config.write_text(f"store: {store}\nledger: {{journal: {tmp_path / 'journal'}}}\n{CONFIG}")
    new.mkdir()
    key = new_key(store)
    with serving(config, sandbox.environ) as old, load_on(old.url, key) as answers:
        some(answers)
        with as_next_version(tmp_path):
            assert asyncio.run(upgraded(store)) == NEXT
            some(answers)
            with running_gateway(config.read_text(), sandbox.environ, new) as gateway:
                gateway.spoilt.append("others are still running")
                with load_on(gateway.url, key) as of_new, serving(config, sandbox.environ) as again:
                    with load_on(again.url, key) as of_again:
                        for each in (answers, of_new, of_again):
                            some(each)
                    assert again.stop() == 0
    command(sandbox.environ, "db", "check", "-c", str(config)).check_returncode()
    assert stores.rows(store, "SELECT DISTINCT added_default FROM entries") == [(7,)]


async def test_a_newer_schema_that_does_more_than_add_is_refused(engine: AsyncEngine, tmp_path: Path) -> None:
    """Fails where every newer schema is taken for one that only adds."""
    with as_next_version(tmp_path, MIGRATION.replace("EXPANDS = True", "EXPANDS = False")):
        await upgrade(engine)
    with pytest.raises(StoreError, match=f"was made by a newer version of xrouter \\(schema {NEXT}"):
        await require_current(engine)


async def test_the_way_back_from_an_added_schema_forgets_that_it_was_one(engine: AsyncEngine, tmp_path: Path) -> None:
    with as_next_version(tmp_path):
        await upgrade(engine)
        oldest = text("SELECT value FROM revisions WHERE name = 'oldest_schema'")
        async with engine.connect() as connection:
            assert await connection.scalar(oldest) == int(NEWEST)
        await downgrade(engine, NEWEST)
    async with engine.connect() as connection:
        assert await connection.scalar(oldest) is None
    await require_current(engine)
