"""`xrouter db copy` of a large SQLite store while its gateway serves, and the gateway that takes over.

    nice -n 10 .venv/bin/python bench/store_copy.py [--generations 1000000] [--per-s 20] [--folder DIR]

Makes the store by the ledger itself, and a PostgreSQL of its own. Then: a gateway on SQLite, a client that asks steadily,
the copy, and beside the first gateway, at the same port, one that waits for PostgreSQL to be complete. Counted are requests
that meet a refusal, and the time from the last answer before them to the first one after them. At the end the rows of
entries and generations are compared one by one, without any of the copy's own code.
"""

import argparse
import asyncio
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg
import httpx2
from ledger import settlement

from xrouter import ids
from xrouter.auth.issue import issue
from xrouter.ledger.opening import open_ledger
from xrouter.ledger.operations import Transfer
from xrouter.sandbox.running import running_sandbox
from xrouter.store.key import NewKey
from xrouter.store.keys import KeyStore
from xrouter.store.migrate import open_store
from xrouter.world import RealWorld

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from kit.postgres_server import free_port, running_postgres  # noqa: E402

CONFIG: Final = """
store: {store}
server: {{port: {port}, reuse_port: true, drain_s: 5}}
ledger: {{journal: {folder}/journal}}
upstreams:
  local: {{provider: openai, base_url: "${{LOCAL_BASE_URL}}", api_key: "${{LOCAL_API_KEY}}"}}
models:
  paid/chat: {{price: {{input: "1", output: "2"}}, routes: [{{upstream: local, model: sandbox-large}}]}}
filters: [auth, body, routing, token_count, quota]
"""
BODY: Final = {"model": "paid/chat", "messages": [{"role": "user", "content": "Столица Перу?"}], "max_tokens": 5}
ACCOUNTS: Final = 200
AT_ONCE: Final = 512
# As an operator would: PostgreSQL's defaults, and the disk waited for.
SETTINGS: Final = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB"}


async def make_store(url: str, count: int) -> str:
    """A store with so many generations; returns the secret of a key with credits."""
    world = RealWorld()
    engine = await open_store(url)
    issued = await issue(KeyStore(engine, world), NewKey(name="bench", account="account0"))
    ledger = open_ledger(engine, world, lease_s=60)
    await ledger.start()
    for number in range(ACCOUNTS):
        await ledger.transfer(
            Transfer(kind="grant", account=f"account{number}", amount_nano=10**16, reason="bench", author="bench")
        )
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            one, account, key = ids.generation_id(world), f"account{number % ACCOUNTS}", f"{number % ACCOUNTS:064d}"
            await ledger.hold(one, account, key, wanted_nano=100_000_000, least_nano=100_000_000)
            await ledger.settle(settlement(one, account, key, int(world.now() * 1e6)), delivered=True)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    await ledger.aclose()
    await engine.dispose()
    return issued.secret.reveal()


@dataclass
class Steady:
    """A client that asks so often a second, on a new connection each time. `answers`: when each came, and its status."""

    url: str
    key: str
    per_s: float
    over: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[float, int]] = field(default_factory=list)

    def run(self) -> None:
        due = time.monotonic()
        while not self.over.wait(max(0.0, due - time.monotonic())):
            due += 1 / self.per_s
            headers = {"Authorization": f"Bearer {self.key}", "Connection": "close"}
            try:
                status = httpx2.post(
                    f"{self.url}/v1/chat/completions", json=BODY, headers=headers, timeout=30
                ).status_code
            except httpx2.HTTPError:
                status = 0
            self.answers.append((time.monotonic(), status))


@contextmanager
def gateway(config: Path, environ: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "xrouter.cli", "serve", "-c", str(config), "--json"]
    with config.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def answered(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline(), "the gateway does not start"


async def differences(path: Path, url: str) -> tuple[int, int]:
    """Rows of entries and generations that were looked at, and how many of them PostgreSQL lacks or has otherwise."""
    looked = differing = 0
    connection = await asyncpg.connect(url)
    with sqlite3.connect(path) as source:
        for table, key in (("entries", "id"), ("generations", "id")):
            cursor = source.execute(f"SELECT * FROM {table} ORDER BY {key}")
            columns = ", ".join(column[0] for column in cursor.description)
            while rows := cursor.fetchmany(5000):
                found = await connection.fetch(
                    f"SELECT {columns} FROM {table} WHERE {key} = ANY($1)",
                    [row[0] for row in rows],
                )
                there = {row[0]: tuple(row) for row in found}
                looked += len(rows)
                differing += sum(there.get(row[0]) != row for row in rows)
    await connection.close()
    return looked, differing


async def size_mb(url: str) -> float:
    connection = await asyncpg.connect(url)
    try:
        size: int = await connection.fetchval("SELECT pg_database_size(current_database())")
        return size / 1e6
    finally:
        await connection.close()


async def is_filling(url: str) -> bool:
    connection = await asyncpg.connect(url)
    try:
        return bool(await connection.fetchval("SELECT to_regclass('copying') IS NOT NULL"))
    finally:
        await connection.close()


def run(folder: Path, target: str, generations: int, per_s: float, pg_environ: dict[str, str]) -> None:
    path = folder / "store.db"
    began = time.monotonic()
    key = asyncio.run(make_store(f"sqlite:///{path}", generations))
    print(f"made {generations:,} generations in {time.monotonic() - began:,.0f} s: {path.stat().st_size / 1e6:,.0f} MB")
    (folder / "journal").mkdir()
    port = free_port()
    configs = {}
    for name, store in (("old", f"sqlite:///{path}"), ("new", target)):
        configs[name] = folder / f"{name}.yaml"
        configs[name].write_text(CONFIG.format(store=store, port=port, folder=folder), encoding="utf-8")
    with gateway(configs["old"], pg_environ) as old:
        answered(old)
        client = Steady(f"http://127.0.0.1:{port}", key, per_s)
        thread = threading.Thread(target=client.run, daemon=True)
        thread.start()
        time.sleep(2)
        command = [
            sys.executable,
            "-m",
            "xrouter.cli",
            "db",
            "copy",
            "-c",
            str(configs["old"]),
            "--to",
            target,
            "--json",
        ]
        copying = subprocess.Popen(command, env=pg_environ, stdout=subprocess.PIPE, text=True)
        while not asyncio.run(is_filling(target)):
            time.sleep(0.1)
        with gateway(configs["new"], pg_environ) as new:
            assert copying.stdout is not None
            report = json.loads(copying.stdout.read())
            _, status, used = os.wait4(copying.pid, 0)
            assert status == 0
            moved = time.monotonic()
            answered(new)
            serves = time.monotonic()
            old.terminate()
            old.wait()
            time.sleep(2)
            client.over.set()
            thread.join()
            new.terminate()
            new.wait()
    tell(report, used, client.answers, serves - moved)
    print(f"in PostgreSQL: {asyncio.run(size_mb(target)):,.0f} MB")
    looked, differing = asyncio.run(differences(path, target))
    print(f"compared apart from it: {looked:,} entries and generations, {differing} differences")
    for name in configs:
        check = [sys.executable, "-m", "xrouter.cli", "db", "check", "-c", str(configs[name])]
        print(f"{name}: {subprocess.run(check, env=pg_environ, capture_output=True, text=True).stdout.strip()}")


def tell(report: dict, used: "resource.struct_rusage", answers: list[tuple[float, int]], after_s: float) -> None:
    rows = sum(table["rows"] for table in report["tables"])
    print(
        f"copied {rows:,} rows and {report['changes']:,} that changed meanwhile in {report['duration_s']:,.1f} s; nobody"
        f" could write for {report['pause_s']:.3f} s; the copy's memory {used.ru_maxrss / 1024:,.0f} MB, its processor time"
        f" {used.ru_utime + used.ru_stime:,.0f} s"
    )
    failed = [at for at, status in answers if status != 200]
    print(f"the new gateway served {after_s:.3f} s after the copy had told its end")
    print(
        f"{len(answers):,} requests meanwhile, {len(failed)} not answered with 200: {sorted({s for _, s in answers})}"
    )
    if failed:
        before = max(at for at, status in answers if status == 200 and at < failed[0])
        after = min((at for at, status in answers if status == 200 and at > failed[-1]), default=float("nan"))
        print(f"from the last answer before them to the first one after them: {after - before:.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=1_000_000)
    parser.add_argument("--per-s", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, help="where the store is made; a temporary folder")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=args.folder) as folder,
        running_postgres(SETTINGS) as server,
        running_sandbox() as sandbox,
    ):
        run(Path(folder), server.url(), args.generations, args.per_s, {**os.environ, **sandbox.environ})


if __name__ == "__main__":
    main()
