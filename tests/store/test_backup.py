"""`xrouter db backup`: F44, and what it refuses."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from kit import stores
from kit.gateway import RunningGateway, running_gateway

from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.store.backup import back_up
from xrouter.store.engine import StoreError
from xrouter.store.migrate import NEWEST, open_store

pytestmark = pytest.mark.sqlite_only
CONFIG = """
upstreams:
  local: {provider: openai, base_url: "${LOCAL_BASE_URL}", api_key: "${LOCAL_API_KEY}"}
models:
  paid/chat: {price: {input: "1", output: "2"}, routes: [{upstream: local, model: sandbox-large}]}
filters: [auth, body, routing, token_count, quota]
"""
BODY = {"model": "paid/chat", "messages": [{"role": "user", "content": "Столица Перу?"}], "max_tokens": 5}
CLIENTS = 4
BACKUPS = 3
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@pytest.fixture
async def store(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    await (await open_store(url)).dispose()
    return url


def xrouter(*arguments: str | Path, sandbox: Sandbox) -> str:
    """What the command prints; it has to succeed."""
    command = [sys.executable, "-m", "xrouter.cli", *map(str, arguments)]
    result = subprocess.run(command, env={**os.environ, **sandbox.environ}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@contextmanager
def load_on(gateway: RunningGateway) -> Iterator[threading.Semaphore]:
    """Clients that ask without end; the semaphore counts answers. None fails."""
    over, answers, failed = threading.Event(), threading.Semaphore(0), []

    def client() -> None:
        while not over.is_set():
            response = gateway.client.post("/v1/chat/completions", json=BODY)
            if response.status_code != 200:
                failed.append(response.text)
            answers.release()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failed == []


@contextmanager
def long_read(path: Path) -> Iterator[None]:
    """Somebody reads one state all the while: what is committed after it stays in the write-ahead log, for no checkpoint
    may write it over what is being read. Without this a busy gateway's checkpoints would have put it into the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entries").fetchone()
        yield


def entries(path: Path) -> list[int]:
    return [number for (number,) in stores.rows(f"sqlite:///{path}", "SELECT id FROM entries ORDER BY id")]


def test_f44_a_backup_under_load_is_one_proven_state_with_all_that_was_committed_before(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A plain copy of the file lacks what is in the write-ahead log."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    restored = elsewhere / "restored.db"
    config = elsewhere / "restored.yaml"
    config.write_text(f"store: sqlite:///{restored}\n{CONFIG}")
    with (
        running_gateway(CONFIG, sandbox.environ, tmp_path) as gateway,
        long_read(tmp_path / "gateway.db"),
        load_on(gateway) as answers,
    ):
        for _ in range(BACKUPS):
            for _ in range(2 * CLIENTS):
                assert answers.acquire(timeout=PATIENCE_S)
            before = entries(tmp_path / "gateway.db")
            xrouter("db", "backup", "-c", tmp_path / "xrouter.yaml", "--to", restored, "--force", sandbox=sandbox)
            after = entries(tmp_path / "gateway.db")
            kept = entries(restored)
            assert len(before) > CLIENTS
            assert kept == after[: len(kept)]  # of what was committed in between, it may have a beginning
            assert len(kept) >= len(before)
            xrouter("db", "check", "-c", config, sandbox=sandbox)
            Path(f"{restored}-wal").unlink(missing_ok=True)
            Path(f"{restored}-shm").unlink(missing_ok=True)


async def test_a_writer_that_goes_on_neither_waits_nor_keeps_the_backup_from_its_end(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One commit of another connection after each page. Fails without the read transaction: SQLite then begins anew."""
    monkeypatch.setattr("xrouter.store.backup._STEP_PAGES", 1)
    path = tmp_path / "store.db"
    commits = 0
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as writer:

        class Connection(sqlite3.Connection):
            def backup(self, target: sqlite3.Connection, **options: int) -> None:  # type: ignore[override]
                def commit(status: int, left: int, total: int) -> None:
                    nonlocal commits
                    commits += 1
                    assert commits < 10 * total, "it does not come to its end"
                    writer.execute("UPDATE revisions SET value = value + 1")

                super().backup(target, progress=commit, **options)

        connect = sqlite3.connect
        monkeypatch.setattr(
            "xrouter.store.backup.sqlite3.connect", lambda *a, **k: connect(*a, **{**k, "factory": Connection})
        )
        made = back_up(store, tmp_path / "copy.db", force=False)
    assert commits > 20
    assert made.schema == NEWEST
    assert stores.rows(f"sqlite:///{tmp_path / 'copy.db'}", "SELECT value FROM revisions") == [(0,)]


async def test_only_its_owner_may_read_it_and_nothing_else_is_left(tmp_path: Path, store: str) -> None:
    to = tmp_path / "backups"
    to.mkdir()
    made = back_up(store, to / "copy.db", force=False)
    assert [path.name for path in to.iterdir()] == ["copy.db"]
    assert stat.S_IMODE((to / "copy.db").stat().st_mode) == 0o600
    assert made.size == (to / "copy.db").stat().st_size > 0


async def test_a_file_that_is_there_is_replaced_by_force_only(tmp_path: Path, store: str) -> None:
    to = tmp_path / "copy.db"
    to.write_text("dear")
    with pytest.raises(StoreError, match="--force replaces it"):
        back_up(store, to, force=False)
    assert to.read_text() == "dear"
    back_up(store, to, force=True)
    assert entries(to) == []


async def test_what_it_will_not_do(tmp_path: Path, store: str) -> None:
    with pytest.raises(StoreError, match="is the store itself"):
        back_up(store, tmp_path / "store.db", force=True)
    (tmp_path / "used.db-wal").write_text("")
    with pytest.raises(StoreError, match=r"used\.db-wal is beside it"):
        back_up(store, tmp_path / "used.db", force=True)
    with pytest.raises(StoreError, match="is not a file"):
        back_up(store, tmp_path, force=True)
    with pytest.raises(StoreError, match="nothing can be written to the folder"):
        back_up(store, tmp_path / "nowhere" / "copy.db", force=False)
    with pytest.raises(StoreError, match="there is no store"):
        back_up(f"sqlite:///{tmp_path / 'none.db'}", tmp_path / "copy.db", force=False)
    with pytest.raises(StoreError, match="pg_dump"):
        back_up("postgresql://someone:secret@host/database", tmp_path / "copy.db", force=False)
    assert not (tmp_path / "none.db").exists()


async def test_a_corrupt_store_makes_no_backup(tmp_path: Path, store: str) -> None:
    damage(tmp_path / "store.db")
    to = tmp_path / "backups"
    to.mkdir()
    with pytest.raises(StoreError, match="cannot be backed up"):
        back_up(store, to / "copy.db", force=False)
    assert list(to.iterdir()) == []


async def test_a_gateway_does_not_start_on_a_corrupt_store(tmp_path: Path, store: str) -> None:
    """Fails without `quick_check`: the damage would be met by the first request that reads that page."""
    damage(tmp_path / "store.db")
    with pytest.raises(StoreError, match=r"is corrupt \(.*\); the gateway does not start on it.* restore a backup"):
        await open_store(store, serving=True)


def damage(path: Path) -> None:
    """One page in the middle; the first ones, with the schema, stay as they are."""
    with path.open("r+b") as file:
        file.seek(-4096 * 2, os.SEEK_END)
        file.write(b"\xff" * 4096)
