"""`kill -9` of a real gateway under load, start it again, prove the ledger: `XROUTER_KILLS=50` for the long run."""

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from kit.gateway import new_key
from kit.money import adjust, problems

from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.wire import decode_json

pytestmark = pytest.mark.sqlite_only
KILLS = int(os.environ.get("XROUTER_KILLS", "3"))
CLIENTS = 6
LEASE_S = 2
CONFIG = """
store: sqlite:///{store}
server: {{port: 0}}
upstreams:
  local: {{provider: openai, base_url: "${{LOCAL_BASE_URL}}", api_key: "${{LOCAL_API_KEY}}"}}
models:
  paid/chat: {{price: {{input: "1", output: "2"}}, routes: [{{upstream: local, model: sandbox-large}}]}}
ledger: {{hold_lease_s: {lease}}}
filters: [auth, body, routing, token_count, {{quota: {{client_abort: bill_delivered}}}}]
"""


def start(config: Path, sandbox: Sandbox) -> tuple[subprocess.Popen[bytes], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "xrouter.cli", "serve", "-c", str(config), "--json"],
        env={**os.environ, **sandbox.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if b'"url"' in line:
            return process, decode_json(line)["url"]
    raise AssertionError("the gateway does not start")


def end(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


async def client(url: str, key: str, chance: random.Random, finished: dict[str, int | None]) -> None:
    """Requests, streamed and not, some left in the middle, until the gateway is gone. Notes what came to its last byte."""
    async with httpx2.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as session:
        while True:
            streamed = chance.random() < 0.7
            leaves = chance.random() < 0.2
            text = " ".join(["вопрос"] * chance.randrange(1, 40))
            body = {"model": "paid/chat", "messages": [{"role": "user", "content": text}], "stream": streamed}
            try:
                async with session.stream("POST", "/v1/chat/completions", json=body) as response:
                    received = b""
                    async for data in response.aiter_raw():
                        received += data
                        if leaves and streamed:
                            break
                    else:
                        assert response.status_code == 200, received
                        if not streamed:
                            cost = response.headers["x-xrouter-cost"].replace(".", "")
                            finished[response.headers["x-generation-id"]] = int(cost)
                        elif b"[DONE]" in received:
                            finished[response.headers["x-generation-id"]] = None
            except httpx2.TransportError:
                return


async def load(process: subprocess.Popen[bytes], url: str, key: str, finished: dict[str, int | None]) -> None:
    chance = random.Random()
    clients = [asyncio.create_task(client(url, key, chance, finished)) for _ in range(CLIENTS)]
    before, deadline = len(finished), time.monotonic() + 20
    while len(finished) < before + CLIENTS and time.monotonic() < deadline:
        await asyncio.sleep(0.01)  # on a busy machine the clients take seconds to begin
    await asyncio.sleep(chance.uniform(0, 1.0))
    process.kill()
    await asyncio.gather(*clients)


def test_f17_f18_killed_under_load_nothing_finished_is_lost_and_nothing_is_charged_twice(tmp_path: Path) -> None:
    """0 lost, 0 double, no hold left after a lease. Fails if the last byte leaves before the settlement is committed."""
    store = tmp_path / "killed.db"
    config = tmp_path / "xrouter.yaml"
    config.write_text(CONFIG.format(store=store, lease=LEASE_S))
    key = new_key(f"sqlite:///{store}")
    asyncio.run(adjust(f"sqlite:///{store}", 10**15))
    finished: dict[str, int | None] = {}
    with running_sandbox() as sandbox:
        for _ in range(KILLS):
            process, url = start(config, sandbox)
            asyncio.run(load(process, url, key, finished))
            end(process)
        process, url = start(config, sandbox)
        deadline = time.monotonic() + LEASE_S + 5
        with closing(sqlite3.connect(store)) as connection:
            while connection.execute("SELECT count(*) FROM holds WHERE state = 'open'").fetchone() != (0,):
                assert process.poll() is None, "the gateway does not serve"
                assert time.monotonic() < deadline, "a hold is older than its lease and a sweep"
                time.sleep(0.05)
            charged = dict(connection.execute("SELECT id, charged_nano FROM generations"))
            entries = connection.execute("SELECT generation_id FROM entries WHERE kind = 'charge'").fetchall()
        process.terminate()
        end(process)
    print(f"{KILLS} kills, {len(finished)} requests finished, {len(charged)} generations charged")
    assert len(finished) > KILLS
    assert finished.keys() <= charged.keys(), "a finished request is lost"
    assert all(cost in (None, charged[generation]) for generation, cost in finished.items())
    assert len(entries) == len(set(entries)), "a generation is charged twice"
    assert asyncio.run(problems(f"sqlite:///{store}")) == ()
