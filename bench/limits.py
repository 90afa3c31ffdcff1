"""Limits in Redis against limits in memory.

    .venv/bin/python bench/limits.py [--seconds 5] [--rounds 3] [--alone]

First the whole gateway of `full.yaml` (limits and quota), in turns on one core, Redis on the load generator's: ratios of one
run. Then one store by itself, at a steady rate of admissions: their times, and whether a limit held to the last request.
With `--alone` only these, at real-time priority (root's to give): on a machine that serves others too, the tail is theirs.
`confirmed` is a Redis whose replica has to confirm (`?replicas=1`).
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop
from clients import quantile
from measures import PLAIN
from parts import GATEWAY_CORE, HERE, LOAD_CORE, gateway, needed, pinned, process, upstream, wrk
from report import ratio

from xrouter.commands.serve import settle_garbage_collection
from xrouter.limits.limit import Claim, Limit
from xrouter.limits.redis_client import open_client
from xrouter.limits.redis_store import RedisStore
from xrouter.limits.store import StoreDown

MASTER_PORT, REPLICA_PORT = 9103, 9104
PER_S = 2000
PLACES = {"redis": f"redis://127.0.0.1:{MASTER_PORT}/0", "confirmed": f"redis://127.0.0.1:{MASTER_PORT}/0?replicas=1"}


@contextlib.contextmanager
def redis() -> Iterator[None]:
    """A master and its replica, both on the load generator's core."""
    with tempfile.TemporaryDirectory() as folder, servers(folder):
        time.sleep(3)
        yield


@contextlib.contextmanager
def servers(folder: str) -> Iterator[None]:
    server = [needed("redis-server"), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", folder]
    follows = ["--replicaof", "127.0.0.1", str(MASTER_PORT), "--repl-diskless-sync-delay", "0"]
    quiet = {"stdout": subprocess.DEVNULL}
    with (
        process(pinned(LOAD_CORE, *server, "--port", str(MASTER_PORT)), **quiet),
        process(pinned(LOAD_CORE, *server, "--port", str(REPLICA_PORT), *follows), **quiet),
    ):
        yield


def whole_gateway(seconds: int, rounds: int) -> None:
    text = (HERE / "full.yaml").read_text(encoding="utf-8")
    per_s: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, upstream():
        for round_ in range(rounds):
            names = ["memory", *PLACES] if round_ % 2 == 0 else [*reversed(PLACES), "memory"]
            for name in names:
                config = Path(folder) / f"{name}.yaml"
                config.write_text(text + (f"redis: {PLACES[name]}\n" if name in PLACES else ""), encoding="utf-8")
                with gateway(config, credits="100000000") as server:
                    wrk(server, PLAIN, 64, 1)
                    load = wrk(server, PLAIN, 64, seconds)
                assert not load.failures, f"{name}: {load.failures} failures"
                per_s.setdefault(name, []).append(load.per_s)
                cpu.setdefault(name, []).append(1 / load.cpu_us)
    print(f"memory: {statistics.median(per_s['memory']):.0f} requests/s")
    for name in PLACES:
        print(f"{name}: requests/s against memory  {ratio(per_s[name], per_s['memory'])}")
        print(f"{name}: the same by CPU a request  {ratio(cpu[name], cpu['memory'])}")


async def admissions(url: str, seconds: int) -> tuple[list[float], int, int, int]:
    """Seconds to each answer, then how many were admitted, what the limit was, and how many had no answer in time."""
    store = RedisStore(open_client(url))
    await store.start()
    total = PER_S * seconds
    amount = total // 2
    window = Limit(name="bench", per="key", kind="requests", amount=amount, window_s=3600, burst=amount)
    tokens = Limit(name="tokens", per="key", kind="tokens", amount=10**9, window_s=60, burst=10**9)
    run = time.time_ns()
    claims = [Claim(window, f"xrl:{{bench}}:{run}:r", 1), Claim(tokens, f"xrl:{{bench}}:{run}:t", 500)]
    times: list[float] = []
    admitted = away = 0

    async def one(number: int) -> None:
        nonlocal admitted, away
        began = time.perf_counter()
        try:
            decision = await store.admit(f"r{number}", claims)
            admitted += decision.admitted
        except StoreDown:
            away += 1
        times.append(time.perf_counter() - began)

    start = time.perf_counter()
    tasks = []
    for number in range(total):
        if (early := start + number / PER_S - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        tasks.append(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)
    await store.aclose()
    return times, admitted, amount, away


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of each load (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: %(default)s)")
    parser.add_argument("--alone", action="store_true", help="admissions only, before everybody else")
    args = parser.parse_args()
    if args.alone:
        os.sched_setaffinity(0, {GATEWAY_CORE})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))  # and so for the servers
    settle_garbage_collection()
    with redis():
        for name, url in PLACES.items():
            uvloop.run(admissions(url, 1))  # what is slow only at first
            times, admitted, amount, away = uvloop.run(admissions(url, args.seconds))
            print(
                f"{name}: an admission at {PER_S} a second: p50 {quantile(times, 0.5) * 1000:.2f} ms, "
                f"p99 {quantile(times, 0.99) * 1000:.2f} ms; admitted {admitted} of {amount}, {away} without an answer"
            )
        if not args.alone:
            whole_gateway(args.seconds, args.rounds)


if __name__ == "__main__":
    main()
