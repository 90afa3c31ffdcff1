"""`xrouter db copy` as an operator runs it: beside a gateway that serves, killed, resumed; another gateway takes over."""

import random
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from kit import stores
from kit.gateway import assert_books_closed, new_key
from kit.postgres_server import PostgresServer
from kit.serving import WAIT_S, Serving, command, serving, until, xrouter

from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.store.copying.tables import TABLES
from xrouter.wire import decode_json

CONFIG = """
store: {store}
server: {{port: 0, drain_s: 5}}
ledger: {{journal: {folder}/journal}}
upstreams:
  local: {{provider: openai, base_url: "${{LOCAL_BASE_URL}}", api_key: "${{LOCAL_API_KEY}}"}}
models:
  paid/chat: {{price: {{input: "1", output: "2"}}, routes: [{{upstream: local, model: sandbox-large}}]}}
filters: [auth, body, routing, token_count, quota]
"""
BODY = {"model": "paid/chat", "messages": [{"role": "user", "content": "Столица Перу?"}], "max_tokens": 5}
PAUSE = ("--max-pause", "60")  # on a machine that is busy with other tests


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@dataclass
class Place:
    """A gateway's configuration on SQLite and one on an empty PostgreSQL, with two keys."""

    folder: Path
    source: str
    target: str
    key: str = ""
    manager: str = ""
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def old(self) -> Path:
        return self.folder / "old.yaml"

    @property
    def new(self) -> Path:
        return self.folder / "new.yaml"

    def copy(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return command(self.environ, "db", "copy", "-c", str(self.old), "--to", "$TARGET", *PAUSE, *arguments)

    def ask(self, url: str, **headers: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.key}", **headers}
        return httpx2.post(f"{url}/v1/chat/completions", json=BODY, headers=headers, timeout=WAIT_S)

    def credits_left(self, url: str) -> Any:
        headers = {"Authorization": f"Bearer {self.manager}"}
        return httpx2.get(f"{url}/v1/credits", headers=headers, timeout=WAIT_S).json()


@pytest.fixture
def place(tmp_path: Path, postgres: PostgresServer, sandbox: Sandbox) -> Place:
    place = Place(tmp_path, f"sqlite:///{tmp_path / 'store.db'}", postgres.new_database())
    (tmp_path / "journal").mkdir()
    for config, store in ((place.old, place.source), (place.new, place.target)):
        config.write_text(CONFIG.format(store=store, folder=tmp_path))
    place.environ = {**sandbox.environ, "TARGET": place.target}
    place.key = new_key(place.source)
    place.manager = new_key(place.source, management=True)
    return place


@contextmanager
def load_on(place: Place, gateway: Serving) -> Iterator[list[tuple[int, float]]]:
    """Clients that ask until the block ends: the status of each answer, and when it came."""
    over, answers = threading.Event(), []

    def client() -> None:
        while not over.is_set():
            answers.append((place.ask(gateway.url).status_code, time.monotonic()))

    threads = [threading.Thread(target=client) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def content(url: str, *but: str) -> dict[str, set[tuple[Any, ...]]]:
    return {
        table.name: {
            tuple(int(value) if isinstance(value, bool) else value for value in row)
            for row in stores.rows(url, f"SELECT {', '.join(table.columns)} FROM {table.name}")
        }
        for table in TABLES
        if table.name not in but
    }


def test_a_gateway_serves_while_it_is_copied_and_another_goes_on_with_the_same_money(place: Place) -> None:
    """Until the store has moved no request fails; then the old gateway refuses, and the new one has been waiting.

    Fails where any row that was written in between is missing, and where the old gateway still takes money.
    """
    with serving(place.old, place.environ) as old:
        named = place.ask(old.url, **{"Idempotency-Key": "once"})
        assert named.status_code == 200
        with load_on(place, old) as answers:
            until(lambda: len(answers) > 10, "requests are answered")
            done = place.copy("--json", "--switch-file", str(place.folder / "switch"))
            assert done.returncode == 0, done.stderr
            until(lambda: answers[-1][0] == 503, "the old gateway refuses")
        statuses = [status for status, _ in answers]
        assert set(statuses) == {200, 503}
        assert statuses.index(503) > 10
        refused = place.ask(old.url)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "moved" not in refused.text  # where it keeps its money is none of a client's business
        left = place.credits_left(old.url)
        manager = {"Authorization": f"Bearer {place.manager}"}
        refused = httpx2.post(f"{old.url}/v1/keys", json={"name": "late"}, headers=manager, timeout=WAIT_S)
        assert refused.status_code == 503
        assert content(place.source) == content(place.target)
        with serving(place.new, place.environ) as new:
            assert place.credits_left(new.url) == left
            again = place.ask(new.url, **{"Idempotency-Key": "once"})
            assert (again.status_code, again.json()["id"]) == (200, named.json()["id"])
            assert place.credits_left(new.url) == left  # charged once, on the other store
            receipt = httpx2.get(f"{new.url}/v1/generation?id={named.json()['id']}", headers=manager, timeout=WAIT_S)
            assert receipt.status_code == 200
            assert place.ask(new.url).status_code == 200
            assert place.credits_left(new.url) != left
            assert old.stop() == 0
            assert new.stop() == 0
    report = decode_json(done.stdout)
    assert {table["name"]: table["rows"] for table in report["tables"]}.keys() == {table.name for table in TABLES}
    assert (place.folder / "switch").read_text() == place.target
    assert stat.S_IMODE((place.folder / "switch").stat().st_mode) == 0o600
    assert decode_json((place.folder / "store.db.copied.json").read_bytes()) == report
    assert "The ledger is proven on both sides" in (place.folder / "store.db.copied.txt").read_text()
    assert_books_closed(place.target)
    for config in (place.old, place.new):
        command(place.environ, "db", "check", "-c", str(config)).check_returncode()
    started = command(place.environ, "serve", "-c", str(place.old))
    assert started.returncode != 0
    assert "has moved to postgresql://" in started.stderr


def test_killed_at_random_moments_and_resumed_it_comes_to_the_same_end(place: Place) -> None:
    """Real processes, real SIGKILL, with requests all the time. `tests/store/test_copy.py` kills at every single step."""
    chance = random.Random(11)
    arguments = ["db", "copy", "-c", str(place.old), "--to", place.target, "--batch", "3", *PAUSE]
    with serving(place.old, place.environ) as old, load_on(place, old) as answers:
        until(lambda: len(answers) > 10, "requests are answered")
        for _ in range(4):
            copying = subprocess.Popen(
                xrouter(*arguments, "--resume"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
            assert copying.stderr is not None
            for _ in range(chance.randrange(1, 40)):  # lines: one for each thing that begins
                copying.stderr.readline()
            copying.send_signal(signal.SIGKILL)
            copying.wait()
            copying.stderr.close()
        done = place.copy("--resume")
        assert done.returncode == 0 or "has moved to" in done.stderr, done.stderr
        until(lambda: answers[-1][0] == 503, "the old gateway refuses")
    assert content(place.source) == content(place.target)
    with serving(place.new, place.environ) as new:  # settles what the old one has in its journal
        assert place.ask(new.url).status_code == 200
        assert new.stop() == 0
    command(place.environ, "db", "check", "-c", str(place.new)).check_returncode()


def test_a_dry_run_changes_nothing(place: Place) -> None:
    before = (place.folder / "store.db").read_bytes()
    done = place.copy("--dry-run")
    assert done.returncode == 0, done.stderr
    assert "Nothing has been changed" in done.stdout
    estimate = decode_json(place.copy("--dry-run", "--json").stdout)
    assert estimate["rows"]["api_keys"] == 2
    assert estimate["journal"] == f"{place.folder}/journal"
    assert (place.folder / "store.db").read_bytes() == before
    assert stores.rows(place.target, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_there_and_back_and_there_again(place: Place, postgres: PostgresServer) -> None:
    assert place.copy("--back").returncode == 1
    assert place.copy().returncode == 0
    back = place.copy("--back")
    assert back.returncode == 0, back.stderr
    with serving(place.old, place.environ) as old:
        assert place.ask(old.url).status_code == 200
        assert old.stop() == 0
    refused = place.copy()
    assert refused.returncode == 1
    assert "is of another copy" in refused.stderr
    place.environ["TARGET"] = postgres.new_database()
    done = place.copy()
    assert done.returncode == 0, done.stderr
    assert "has moved to postgresql://" in done.stdout
    forced = place.copy("--back", "--force")
    assert forced.returncode == 0
    assert command(place.environ, "keys", "list", "-c", str(place.old)).returncode == 0


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("postgresql://someone:hidden@127.0.0.1:1/database", "someone@127.0.0.1:1/database: ConnectionRefusedError"),
        ("mysql://someone:hidden@127.0.0.1/database", "a store is sqlite or postgresql, not mysql"),
        ("$NOWHERE", "--to names the variable NOWHERE, which is not set"),
    ],
)
def test_a_bad_target_is_one_sentence(place: Place, to: str, told: str) -> None:
    done = command(place.environ, "db", "copy", "-c", str(place.old), "--to", to)
    assert done.returncode == 1
    assert told in done.stderr
    assert "hidden" not in done.stderr
    assert done.stderr.count("\n") == 1
