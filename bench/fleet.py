"""What clients notice of reloads, restarts, deaths and a database that goes away: 500 open streams, 200 requests/s.

    nice -n 5 .venv/bin/python bench/fleet.py --workers 4 --on postgresql [--what reload,restart,kill,away,crash,failover]

One worker on SQLite, or several on SQLite or PostgreSQL (its disk is waited for) with Redis. The scenarios, each under load:

    reload      every 200 ms, another configuration each time
    restart     all workers replaced, one after the other, again and again (SIGUSR2)
    kill        SIGKILL to one worker at random, every few seconds
    away        PostgreSQL stopped for 10 s
    crash       PostgreSQL killed and started again
    failover    the primary killed and a synchronous standby promoted; the gateway knows both

After each: the words that clients were told, memory, and once the leases have passed: holds that are left over,
`xrouter db check`, and that every generation whose last byte a client has was charged once, with its price. Exit code 1 if
anything is not as it has to be.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from clients import Client, quantile
from fleet_load import CHUNKS, Load, Told, described
from parts import Server, alive, gateway, process

from xrouter.front.server import raise_descriptor_limit
from xrouter.workers.control import Question, ask
from xrouter.workers.messages import WorkerState

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from kit import stores
from kit.postgres_server import DATABASE, USER, PostgresServer, running_postgres, server_folder
from kit.redis_server import free_port, running_redis

LEASE_S: Final = 5
PRICE: Final = 650_000  # 10⁻⁹ credit a token
CONFIG: Final = """
store: ${{BENCH_STORE}}
redis: {redis}
server: {{workers: {workers}, drain_s: 60, watch_config: false}}
ledger: {{hold_lease_s: {lease}, journal: {folder}/journal}}
upstreams:
  bench: {{provider: openai, base_url: "${{BENCH_UPSTREAM}}", api_key: bench, concurrency: 10000}}
models:
  bench/model:
    aliases: [bench]
    routes: [{{upstream: bench, model: bench}}]
    price: {{input: "0.65", output: "0.65", per: 1000}}
tiers:
  default: {{requests: [100000000/minute], tokens: [100000000000/minute], concurrency: 100000}}
filters:
  - auth: {{}}
  - rate_limit: {{}}
  - body: {{}}
  - routing: {{}}
  - token_count: {{}}
  - quota: {{}}
"""
MORE: Final = "  bench/more: {price: free, routes: [{upstream: bench, model: bench}]}\ntiers:\n"
# As an operator would: PostgreSQL's defaults, and the disk waited for.
POSTGRES: Final = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB"}


@dataclass
class Fleet:
    """One gateway under load. `notes`: what a scenario has to say; `wrong`: what must not have been."""

    server: Server
    config: Path
    store: str
    postgres: PostgresServer | None
    seconds: float
    load: Load | None = None
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    victims: set[int] = field(default_factory=set)  # clients' ports of connections to workers that were killed

    @property
    def supervisor(self) -> int:
        return self.server.pids[0]

    async def workers(self) -> list[WorkerState]:
        return (await asyncio.to_thread(ask, self.config, Question("fleet"))).workers


Scenario = Callable[[Fleet], Awaitable[None]]


async def reload(fleet: Fleet) -> None:
    plain = fleet.config.read_text(encoding="utf-8")
    texts = (plain.replace("tiers:\n", MORE), plain)
    took: list[float] = []
    ends = time.monotonic() + fleet.seconds
    while time.monotonic() < ends:
        began = time.monotonic()
        fleet.config.write_text(texts[len(took) % 2], encoding="utf-8")
        answer = await asyncio.to_thread(ask, fleet.config, Question("reload"))
        if answer.problem is not None:
            fleet.wrong.append(f"a reload was refused: {answer.problem}")
        took.append(time.monotonic() - began)
        await asyncio.sleep(max(0.0, 0.2 - took[-1]))
    fleet.config.write_text(plain, encoding="utf-8")
    fleet.notes.append(
        f"{len(took)} reloads, p50 {quantile(took, 0.5) * 1000:.0f} ms, longest {max(took) * 1000:.0f} ms"
    )


async def restart(fleet: Fleet) -> None:
    ends, rounds = time.monotonic() + fleet.seconds, 0
    while time.monotonic() < ends:
        before = await fleet.workers()
        old = {worker.pid for worker in before if worker.state == "serving"}
        os.kill(fleet.supervisor, signal.SIGUSR2)
        while True:
            await asyncio.sleep(0.2)
            serving = {worker.pid for worker in await fleet.workers() if worker.state == "serving"}
            if len(serving) == len(old) and not serving & old:
                break
        rounds += 1
    fleet.notes.append(f"all {len(old)} workers replaced {rounds} times")


async def kill(fleet: Fleet) -> None:
    chance, ends, kills = random.Random(1), time.monotonic() + fleet.seconds, 0
    while time.monotonic() < ends:
        await asyncio.sleep(chance.uniform(0.5, 3))
        serving = [worker.pid for worker in await fleet.workers() if worker.state == "serving"]
        if not serving:
            continue
        victim = chance.choice(serving)
        os.kill(victim, signal.SIGSTOP)  # it accepts nothing more, so that what it has is known
        fleet.victims |= client_ports(victim)
        os.kill(victim, signal.SIGKILL)
        kills += 1
    fleet.notes.append(f"{kills} workers killed")


async def away(fleet: Fleet) -> None:
    assert fleet.postgres is not None
    assert fleet.load is not None
    await asyncio.sleep(5)
    gone = fleet.load.now
    await asyncio.to_thread(fleet.postgres.stop)
    await asyncio.sleep(10)
    back = fleet.load.now
    await asyncio.to_thread(fleet.postgres.start)
    await recovered(fleet, gone, back)


async def crash(fleet: Fleet) -> None:
    assert fleet.postgres is not None
    assert fleet.load is not None
    await asyncio.sleep(5)
    gone = back = fleet.load.now
    await asyncio.to_thread(fleet.postgres.stop, signal.SIGKILL)
    await asyncio.to_thread(fleet.postgres.start)
    await recovered(fleet, gone, back)


async def failover(fleet: Fleet) -> None:
    assert fleet.postgres is not None
    assert fleet.load is not None
    standby = STANDBY[0]
    await asyncio.sleep(5)
    gone = fleet.load.now
    await asyncio.to_thread(fleet.postgres.stop, signal.SIGKILL)
    await asyncio.to_thread(standby.promote)
    back = fleet.load.now
    fleet.store = standby.url()
    await recovered(fleet, gone, back)


async def recovered(fleet: Fleet, gone: float, back: float) -> None:
    """Wait for a second without a bad answer; then as much load again."""
    assert fleet.load is not None
    told = fleet.load.told
    while not told.seconds or (told.bad and fleet.load.now - told.bad[-1].at < 2):
        await asyncio.sleep(0.1)
        if fleet.load.now - back > 60:
            fleet.wrong.append("the gateway did not recover within a minute")
            break
    last = told.bad[-1].at if told.bad else gone
    refusals = Counter(ended.word for ended in told.bad)
    fleet.notes.append(f"away for {back - gone:.1f} s: {dict(refusals)}; the last {max(0.0, last - back):.1f} s after")
    await asyncio.sleep(5)


STANDBY: list[PostgresServer] = []
SCENARIOS: Final[dict[str, Scenario]] = {
    "reload": reload, "restart": restart, "kill": kill, "away": away, "crash": crash, "failover": failover,
}  # fmt: skip


def client_ports(pid: int) -> set[int]:
    """The far ends of the sockets that a process has open."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            name = os.readlink(descriptor)
            if name.startswith("socket:["):
                sockets.add(name[8:-1])
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return {int(f[2].split(":")[1], 16) for f in (line.split() for line in lines) if f[9] in sockets}


async def memory(fleet: Fleet, samples: list[float]) -> None:
    """Megabytes of all workers that serve together, once a second."""
    while True:
        serving = [worker.resident_bytes for worker in await fleet.workers() if worker.state == "serving"]
        samples.append(sum(serving) / 2**20)
        await asyncio.sleep(1)


async def run(fleet: Fleet, scenario: Scenario, streams: int, per_s: float, pause_ms: int) -> Told:
    samples: list[float] = []
    async with Load(Client(fleet.server.url, fleet.server.headers), streams, per_s, pause_ms) as load:
        fleet.load = load
        await asyncio.sleep(load.opening_s)
        watching = asyncio.create_task(memory(fleet, samples))
        await scenario(fleet)
        watching.cancel()
    third = max(1, len(samples) // 3)
    early, late = (sum(part) / len(part) for part in (samples[:third], samples[-third:]))
    fleet.notes.append(f"memory of the workers that serve {early:.0f} MB in the first third, {late:.0f} MB in the last")
    p50, p99 = (quantile(load.told.seconds, q) * 1000 for q in (0.5, 0.99))
    fleet.notes.append(f"whole answers p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    return load.told


def judge(fleet: Fleet, name: str, told: Told) -> None:
    words = set(told.words)
    if name in ("reload", "restart") and words - {"200", "stream 200"}:
        fleet.wrong.append(f"clients noticed: {told.bad[:5]}")
    if name == "kill":
        strangers = [ended for ended in told.bad if ended.port not in fleet.victims]
        fleet.notes.append(f"{len(told.bad)} broken, {len(strangers)} of them of another worker's connections")
        if strangers:
            fleet.wrong.append(f"not of a killed worker: {strangers[:5]}")
    if name in ("away", "crash", "failover") and words - {"200", "stream 200", "503", "stream 503"}:
        fleet.wrong.append("another answer than 200 and 503")


def prove(fleet: Fleet, environ: dict[str, str], told: Told) -> None:
    """The books, once the leases of the dead have passed and what was journaled is settled."""
    began = time.monotonic()
    while held_or_owed := [*open_holds(fleet), *not_charged(fleet, told)]:
        if time.monotonic() - began > LEASE_S + 25:
            fleet.wrong.append(f"{len(held_or_owed)}: {held_or_owed[:5]}")
            break
        time.sleep(0.5)
    fleet.notes.append(f"{time.monotonic() - began:.1f} s later all was settled")
    check = [sys.executable, "-m", "xrouter.cli", "db", "check", "-c", str(fleet.config), "--json"]
    proof = subprocess.run(check, env={**environ, "BENCH_STORE": fleet.store}, capture_output=True, text=True)
    if proof.returncode:
        fleet.wrong.append(f"db check: {proof.stdout or proof.stderr}")
    fleet.notes.append(f"{len(told.finished) + len(told.streamed)} finished generations")


def open_holds(fleet: Fleet) -> list[str]:
    return [
        f"{one} is held" for (one,) in stores.rows(fleet.store, "SELECT generation_id FROM holds WHERE state = 'open'")
    ]


def not_charged(fleet: Fleet, told: Told) -> list[str]:
    """Those of which a client has the last byte and which are not charged once, with their price."""
    charged: dict[str, list[int]] = {}
    for one, nano in stores.rows(
        fleet.store, "SELECT generation_id, amount_nano FROM entries WHERE kind IN ('charge', 'overrun')"
    ):
        charged.setdefault(one, []).append(nano)
    return [
        f"{one} is charged {charged.get(one)}"
        for ids, tokens in ((told.finished, 12 + 14), (told.streamed, 12 + CHUNKS))
        for one in ids
        if charged.get(one) != [tokens * PRICE]
    ]


@contextlib.contextmanager
def database(kind: str, folder: Path, *, standby: bool) -> Iterator[tuple[str, PostgresServer | None]]:
    """The store's URL, and its server."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/fleet.db", None
        return
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(running_postgres(POSTGRES))
        url = primary.url()
        if standby:
            other = PostgresServer(stack.enter_context(server_folder()), {**POSTGRES, "synchronous_standby_names": ""})
            other.copy_of(primary)
            other.start()
            stack.callback(other.stop)
            primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'standby'", database="postgres")
            primary.sql("SELECT pg_reload_conf()", database="postgres")
            STANDBY[:] = [other]
            url = f"postgresql://{USER}@127.0.0.1:{primary.port},127.0.0.1:{other.port}/{DATABASE}"
        yield url, primary


def one(name: str, args: argparse.Namespace) -> bool:
    """One scenario with a gateway and a store of its own. Whether everything was as it has to be."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, upstream_port = free_port(), free_port()
        upstream = str(Path(__file__).with_name("upstream.py"))
        child = stack.enter_context(process([sys.executable, upstream, str(upstream_port)]))
        time.sleep(1)
        alive(child, upstream_port)
        redis = "null" if args.workers == 1 else stack.enter_context(running_redis(folder)).url
        store, postgres = stack.enter_context(database(args.on, folder, standby=name == "failover"))
        config = folder / "fleet.yaml"
        config.write_text(CONFIG.format(redis=redis, workers=args.workers, lease=LEASE_S, folder=folder))
        more = {"BENCH_STORE": store, "BENCH_UPSTREAM": f"http://127.0.0.1:{upstream_port}/v1"}
        server = stack.enter_context(gateway(config, credits="100000000", port=port, more_environ=more))
        fleet = Fleet(server, config, postgres.url() if postgres else store, postgres, args.seconds)
        told = asyncio.run(run(fleet, SCENARIOS[name], args.streams, args.per_s, args.pause_ms))
        judge(fleet, name, told)
        prove(fleet, {**os.environ, **more}, told)
    print(f"{name}: {args.workers} on {args.on}, {args.streams} streams, {args.per_s}/s: {described(told)}")
    print(
        "".join(f"  {note}\n" for note in fleet.notes) + "".join(f"  WRONG {what}\n" for what in fleet.wrong),
        end="",
        flush=True,
    )
    return not fleet.wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default="reload,restart,kill", help="scenarios (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--on", choices=["sqlite", "postgresql"], default="postgresql", help="(default: %(default)s)")
    parser.add_argument("--streams", type=int, default=500, help="open at a time (default: %(default)s)")
    parser.add_argument("--per-s", type=float, default=200, help="whole requests a second (default: %(default)s)")
    parser.add_argument(
        "--pause-ms", type=int, default=5000, help=f"between a stream's {CHUNKS} chunks (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=60, help="of each scenario (default: %(default)s)")
    args = parser.parse_args()
    raise_descriptor_limit()
    well = [one(name, args) for name in args.what.split(",")]
    sys.exit(0 if all(well) else 1)


if __name__ == "__main__":
    main()
