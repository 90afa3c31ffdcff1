"""Mixed load with aborts for a long time: memory, descriptors, requests under way and open holds have to stay flat.

    python bench/soak.py [--minutes N] [--per-s N]

Whole answers and streams of all three dialects; a tenth of the streams are left in the middle. Samples every five seconds go
to .run/bench/soak.json, from which bench/report.py draws docs/performance-soak.svg. Ends with the proof of the ledger.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

import uvloop
from clients import Client
from compare import CONFIG, CREDITS
from measures import chat
from parts import LOAD_CORE, UPSTREAM, Server, gateway, upstream
from peers import HOME

_SAMPLE_S = 5.0
_MODELS = ("bench", "bench-giga", "bench-yandex")


def sample(server: Server, client: Client, store: Path, began: float) -> dict[str, float]:
    descriptors = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in server.pids)
    text = urlopen(f"{server.url}/metrics", timeout=10).read().decode()
    under_way = next(line.rpartition(" ")[2] for line in text.splitlines() if line.startswith("xrouter_in_flight "))
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        (holds,) = database.execute("SELECT count(*) FROM holds WHERE state = 'open'").fetchone()
    return {
        "seconds": time.monotonic() - began,
        "resident MB": server.resident_kb() / 1024,
        "descriptors": descriptors,
        "under way": float(under_way),
        "open holds": float(holds),
        "answers": float(client.answers.statuses.get(200, 0)),
        "errors": float(client.answers.errors),
    }


async def leave(client: Client, request: bytes) -> None:
    """Begin a stream, and go after its first bytes."""
    connection = await client.connect()
    connection.ask(request)
    for _ in range(1000):
        if connection.status or connection.transport.is_closing():
            break
        await asyncio.sleep(0.01)
    connection.transport.abort()  # type: ignore[attr-defined]


async def soak(server: Server, store: Path, minutes: float, per_s: float) -> list[dict[str, float]]:
    client = Client(server.url, server.headers)
    whole = [client.request(chat("", model)) for model in _MODELS]
    streams = [client.request(chat("[[chunks=20]][[separate]][[pause=20]]", model, stream=True)) for model in _MODELS]
    kinds = itertools.cycle([*whole * 7, *streams * 3])
    leaving = itertools.cycle(streams)
    tasks: set[asyncio.Task[None]] = set()
    samples: list[dict[str, float]] = []
    began, next_sample_s = time.monotonic(), 0.0
    start = time.perf_counter()
    for number in range(int(per_s * minutes * 60)):
        due = start + number / per_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        work = leave(client, next(leaving)) if number % 30 == 29 else client.one(next(kinds), due)
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if time.monotonic() - began >= next_sample_s:
            next_sample_s += _SAMPLE_S
            samples.append(await asyncio.to_thread(sample, server, client, store, began))
    await asyncio.gather(*tasks)
    await asyncio.sleep(2)  # for the charges of those who left
    samples.append(await asyncio.to_thread(sample, server, client, store, began))
    client.close()
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="(default: %(default)s)")
    parser.add_argument("--per-s", type=float, default=200, help="requests a second (default: %(default)s)")
    args = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, upstream():
        store = Path(folder) / "soak.db"
        environ = {"BENCH_STORE": f"sqlite:///{store}"}
        with gateway(CONFIG, credits=CREDITS, more_environ=environ) as server:
            samples = uvloop.run(soak(server, store, args.minutes, args.per_s))
        proof = subprocess.run(
            [sys.executable, "-m", "xrouter.cli", "db", "check", "-c", str(CONFIG), "--json"],
            env={**os.environ, **environ, "BENCH_HOST": UPSTREAM}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    (HOME / "soak.json").write_text(json.dumps(samples))
    (HOME / "soak-proof.json").write_text(proof.stdout)
    for label, one in (("first", samples[0]), ("middle", samples[len(samples) // 2]), ("last", samples[-1])):
        print(label, {kind: round(value, 1) for kind, value in one.items()})
    print("ledger", proof.stdout.strip() or proof.stderr.strip())
    if proof.returncode or samples[-1]["errors"]:
        sys.exit("soak: there were errors, or the ledger's proof failed")


if __name__ == "__main__":
    main()
