"""How fast the ledger is by itself: holds and settlements a second, in batches and alone, on one core.

    taskset -c 0 python bench/ledger.py [--folder DIR] [--settlements N]
    python bench/ledger.py --store postgresql://user@host/database [--processes N]

Beside it is measured what the disk allows: one durable commit of SQLite with one small row. `--store` names a database of
PostgreSQL, whose tables are made if there are none; `--processes` then share it, each with a ledger of its own.
"""

import argparse
import asyncio
import multiprocessing
import sqlite3
import statistics
import tempfile
import time
from decimal import Decimal
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from xrouter import ids
from xrouter.config.settings import Price
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.opening import open_ledger
from xrouter.ledger.operations import Settlement, Transfer
from xrouter.ledger.prices import PricedModel
from xrouter.ledger.proof import prove
from xrouter.store.engine import create_engine
from xrouter.store.migrate import open_store, upgrade
from xrouter.world import RealWorld

_PRICE = PricedModel.of("gigachat/max", Price(input=Decimal("0.65"), output=Decimal("0.65")))
_DETAILS = '{"request_id":"3621dbb4-9900-47e0-a1f6-05ce1ba64c48","endpoint":"chat","requested":"gigachat/max",' + (
    '"streamed":true,"duration_s":0.0064,"first_token_s":0.0061,"attempts":[{"upstream":"giga","model":"GigaChat-2-Max",'
    '"status":200,"started_s":0.0017,"duration_s":0.0045}],"client_ip":"127.0.0.1","user_agent":"OpenAI/Python 2.11"}'
)


def settlement(generation_id: str, account: str, key: str, now_us: int) -> Settlement:
    return Settlement(
        generation_id=generation_id, account=account, key_hash=key, model="gigachat/max", upstream="giga",
        upstream_model="GigaChat-2-Max", outcome="complete", rule="complete", finish_reason="stop", input_tokens=100,
        output_tokens=50, cached_tokens=0, reasoning_tokens=None, usage_source="reported", images=0,
        price=_PRICE.version, cost_nano=97_500_000, provider_cost_nano=0, created_at_us=now_us, details=_DETAILS,
    )  # fmt: skip


async def in_batches(ledger: Ledger, accounts: int, count: int, at_once: int) -> str:
    """`count` holds, then their settlements, by `at_once` clients that each wait for their own."""
    world = RealWorld()
    names = [(f"account{number % accounts}", f"{number % accounts:064d}") for number in range(count)]
    generations = [ids.generation_id(world) for _ in range(count)]
    settlements = [settlement(one, *name, 1) for one, name in zip(generations, names, strict=True)]
    holds_left = iter(list(zip(generations, names, strict=True)))
    settlements_left = iter(settlements)

    async def hold() -> None:
        for one, name in holds_left:
            await ledger.hold(one, *name, wanted_nano=100_000_000, least_nano=100_000_000)

    async def settle() -> None:
        for one in settlements_left:
            await ledger.settle(one, delivered=True)

    batches, words = ledger.batches, []
    for what, client in (("holds", hold), ("settlements", settle)):
        cpu, began = time.process_time(), time.perf_counter()
        await asyncio.gather(*(client() for _ in range(at_once)))
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
        words.append(f"{what} {count / seconds:,.0f}/s, {cpu / count * 1e6:.0f} µs of CPU each")
    return f"{'; '.join(words)} ({ledger.batches - batches} batches)"


async def alone(ledger: Ledger, count: int) -> tuple[list[float], list[float]]:
    """Seconds of each hold and each settlement when nothing else is under way."""
    world = RealWorld()
    holds, settlements = [], []
    for _ in range(count):
        one = ids.generation_id(world)
        began = time.perf_counter()
        await ledger.hold(one, "account0", f"{0:064d}", wanted_nano=100_000_000, least_nano=100_000_000)
        held = time.perf_counter()
        await ledger.settle(settlement(one, "account0", f"{0:064d}", 1), delivered=True)
        holds.append(held - began)
        settlements.append(time.perf_counter() - held)
    return holds, settlements


def durable_commits(folder: Path, count: int) -> list[float]:
    connection = sqlite3.connect(folder / "commits.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE one (id INTEGER PRIMARY KEY, text TEXT)")
    times = []
    for number in range(count):
        began = time.perf_counter()
        connection.execute("INSERT INTO one VALUES (?, 'some text')", (number,))
        times.append(time.perf_counter() - began)
    connection.close()
    return times


def milliseconds(times: list[float]) -> str:
    ordered = sorted(times)
    return f"p50 {statistics.median(ordered) * 1e3:.2f} ms, p99 {ordered[int(len(ordered) * 0.99)] * 1e3:.2f} ms"


async def main(url: str, folder: Path, count: int) -> None:
    world = RealWorld()
    engine = await open_store(url)
    ledger = open_ledger(engine, world, lease_s=60)
    await ledger.start()
    print(f"one durable commit of SQLite here: {milliseconds(durable_commits(folder, 300))}")
    holds, settlements = await alone(ledger, 300)
    print(f"alone: hold {milliseconds(holds)}; settlement {milliseconds(settlements)}")
    for accounts, at_once in ((1, 512), (100, 512), (100, 64)):
        words = await in_batches(ledger, accounts, count, at_once)
        print(f"{count} requests of {accounts} accounts, {at_once} at once: {words}")
    await ledger.aclose()
    began = time.perf_counter()
    proof = await prove(engine)
    print(f"proof of {proof.generations} generations: {time.perf_counter() - began:.1f} s, ok {proof.ok}")
    print("\n".join(proof.problems[:5]))
    await engine.dispose()


async def prepared(url: str) -> None:
    """Tables, and credits for a hundred accounts."""
    engine = create_engine(url) if url.startswith("postgresql:") else await open_store(url)
    if url.startswith("postgresql:"):
        await upgrade(engine)
    ledger = open_ledger(engine, RealWorld(), lease_s=60)
    await ledger.start()
    for number in range(100):
        grant = Transfer(kind="grant", account=f"account{number}", amount_nano=10**15, reason="bench", author="bench")
        await ledger.transfer(grant)
    await ledger.aclose()
    await engine.dispose()


async def share(url: str, count: int, ready: "Barrier", times: "SimpleQueue[float]") -> None:
    """One of several processes: a steady 8 clients, each of whom holds and settles one request after the other."""
    engine = await open_store(url)
    world = RealWorld()
    ledger = open_ledger(engine, world, lease_s=60)
    await ledger.start()
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            one, name = ids.generation_id(world), (f"account{number % 100}", f"{number % 100:064d}")
            began = time.perf_counter()
            await ledger.hold(one, *name, wanted_nano=100_000_000, least_nano=100_000_000)
            await ledger.settle(settlement(one, *name, 1), delivered=True)
            times.put(time.perf_counter() - began)

    await asyncio.to_thread(ready.wait)
    await asyncio.gather(*(client() for _ in range(8)))
    await ledger.aclose()
    await engine.dispose()


def shared(url: str, count: int, processes: int) -> str:
    """Requests a second of all processes together, and how long one request's hold and settlement take."""
    ready, times = multiprocessing.Barrier(processes + 1), multiprocessing.SimpleQueue()
    run = [
        multiprocessing.Process(target=lambda: asyncio.run(share(url, count, ready, times))) for _ in range(processes)
    ]
    for process in run:
        process.start()
    ready.wait()
    began = time.perf_counter()
    taken = sorted(times.get() for _ in range(count * processes))
    seconds = time.perf_counter() - began
    for process in run:
        process.join()
    return f"{processes} processes, 8 at once in each: {count * processes / seconds:,.0f} requests/s, {milliseconds(taken)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to make the database: a folder of the disk to be measured")
    parser.add_argument("--store", help="a database of PostgreSQL, instead of a fresh SQLite file")
    parser.add_argument("--processes", type=int, help="only this: so many share the store")
    parser.add_argument("--settlements", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        store = arguments.store or f"sqlite:///{temporary}/bench.db"
        asyncio.run(prepared(store))
        if arguments.processes:
            print(shared(store, arguments.settlements, arguments.processes))
        else:
            asyncio.run(main(store, Path(temporary), arguments.settlements))
