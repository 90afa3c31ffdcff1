"""The gateway and its peers, in turns on one core, against one upstream: the figures of docs/performance.md.

    make bench            or            python bench/compare.py [--rows NAME,…] [--rounds N] [--seconds N] [--report]

The server under measurement has one core; load generator, upstream, PostgreSQL and Redis have the other. Each row's figures
go to .run/bench/results.json as they come, and --report writes the page and its plots from what is there.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measures
import peers
from measures import Entry, Figures
from parts import (
    HERE,
    LOAD_CORE,
    UPSTREAM,
    Missing,
    Server,
    gateway,
    needed,
    nginx,
    pinned,
    process,
    upstream,
    wait_for,
)

sys.path.append(str(HERE.parent / "tests"))
from kit.postgres_server import running_postgres
from kit.redis_server import running_redis

CONFIG = HERE / "comparison.yaml"
RESULTS = peers.HOME / "results.json"
CREDITS = "100000000"
_DEBIAN_PORT, _SHARED_PORT, _START_PORT, _WORKERS_PORT = 9107, 9108, 9109, 9110


class Bench:
    """What the rows share: how long, how often, which peers there are, and the servers of each row."""

    def __init__(self, rounds: int, seconds: int, idle: int, sustained_s: int) -> None:
        self.rounds = rounds
        self.seconds = seconds
        self.idle_streams = idle
        self.sustained_s = sustained_s
        self.absent: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        for peer in peers.PEERS.values():
            try:
                self.versions[peer.name] = peers.install(peer)
            except (subprocess.CalledProcessError, OSError, Missing) as error:
                lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
                self.absent[peer.name] = lines[-1] if lines else "cannot be installed"

    @contextlib.contextmanager
    def ours(self, *names: str) -> Iterator[dict[str, Server]]:
        """The gateway on SQLite with this Python, on SQLite with Debian's (`debian`), on PostgreSQL and Redis (`shared`)."""
        with contextlib.ExitStack() as stack:
            found = {}
            if "sqlite" in names:
                found["sqlite"] = stack.enter_context(gateway(CONFIG, "xrouter", CREDITS))
            if "debian" in names:
                python = peers.own_environment()
                found["debian"] = stack.enter_context(
                    gateway(CONFIG, "xrouter, Debian's Python", CREDITS, port=_DEBIAN_PORT, python=python)
                )
            if "shared" in names:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                redis = stack.enter_context(running_redis(folder))
                postgres = stack.enter_context(running_postgres({"fsync": "on", "full_page_writes": "on"}))
                stores = {"BENCH_STORE": postgres.url(), "BENCH_REDIS": redis.url}
                found["shared"] = stack.enter_context(
                    gateway(CONFIG, "xrouter, PostgreSQL + Redis", CREDITS, port=_SHARED_PORT, more_environ=stores)
                )
            yield found

    def peer(self, stack: contextlib.ExitStack, name: str) -> list[Server]:
        """The running peer, or nothing: then `absent` has the reason."""
        if name in self.absent:
            return []
        try:
            return [stack.enter_context(peers.running(peers.PEERS[name]))]
        except OSError as error:
            self.absent[name] = f"is installed and does not start: {error}"
            return []

    def row_requests(self, figures: Figures) -> None:
        with contextlib.ExitStack() as stack:
            plain = stack.enter_context(nginx())
            own = stack.enter_context(self.ours("sqlite", "debian", "shared"))
            others = [s for name in ("sglang-router", "portkey", "litellm") for s in self.peer(stack, name)]
            entries = [Entry(server) for server in (plain, *own.values(), *others)]
            measures.requests(figures, entries, 1, 1)  # to warm up
            figures.clear()
            measures.requests(figures, entries, self.rounds, self.seconds)

    def row_streams(self, figures: Figures) -> None:
        with contextlib.ExitStack() as stack:
            plain = stack.enter_context(nginx())
            own = stack.enter_context(self.ours("sqlite", "debian"))
            entries = [
                Entry(plain, label="nginx, OpenAI's chunks"),
                Entry(plain, "/giga/v1/chat/completions", label="nginx, GigaChat's chunks"),
                Entry(plain, "/yandex/foundationModels/v1/completion", label="nginx, YandexGPT's chunks"),
            ]
            dialects = (("bench", "pass-through"), ("bench-giga", "GigaChat"), ("bench-yandex", "YandexGPT"))
            entries += [
                Entry(server, model=model, label=f"{server.name}, {label}")
                for server in own.values()
                for model, label in dialects
            ]
            entries += [Entry(server, model="GigaChat-2-Max") for server in self.peer(stack, "gpt2giga")]
            for separate in (True, False):
                measures.streams(figures, entries, self.rounds, self.seconds, separate)

    def row_latency(self, figures: Figures) -> None:
        samples: Figures = {}
        with contextlib.ExitStack() as stack:
            direct = Server("no gateway", UPSTREAM, (), {})
            plain = stack.enter_context(nginx())
            own = stack.enter_context(self.ours("sqlite", "debian", "shared"))
            others = [s for name in ("sglang-router", "portkey") for s in self.peer(stack, name)]
            entries = [Entry(server) for server in (direct, plain, *own.values(), *others)]
            measures.latency(figures, entries, 1, 1, {})
            figures.clear()
            measures.latency(figures, entries, self.rounds, self.seconds, samples)
        (peers.HOME / "latency.json").write_text(json.dumps(samples))

    def row_sustained(self, figures: Figures) -> None:
        for name in ("sqlite", "debian"):
            with self.ours(name) as own:
                measures.sustained(figures, Entry(own[name]), self.sustained_s)

    @contextlib.contextmanager
    def on_both_cores(self, *numbers: int) -> Iterator[list[Entry]]:
        """Gateways of so many workers each, beside load and upstream: limits in Redis, which several have to share."""
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            environ = {"BENCH_REDIS": stack.enter_context(running_redis(folder)).url}
            entries = []
            for number in numbers:
                name, options, port = f"workers: {number}", ("--workers", str(number)), _WORKERS_PORT + number
                served = gateway(CONFIG, name, CREDITS, port=port, cores="0,1", more_environ=environ, options=options)
                entries.append(Entry(stack.enter_context(served)))
            yield entries

    def row_workers(self, figures: Figures) -> None:
        with self.on_both_cores(1, 2) as entries:
            measures.workers(figures, entries, 1, 1)  # to warm up
            figures.clear()
            measures.workers(figures, entries, self.rounds, self.seconds)

    def row_idle(self, figures: Figures) -> None:
        with self.ours("sqlite") as own:
            measures.idle(figures, Entry(own["sqlite"]), self.idle_streams)
        with self.on_both_cores(2) as (two,):
            measures.idle(figures, two, self.idle_streams * 5 // 4)

    def row_large(self, figures: Figures) -> None:
        with self.ours("sqlite") as own:
            measures.large(figures, Entry(own["sqlite"]), self.seconds)

    def row_start(self, figures: Figures) -> None:
        # As an installed package has it: without byte code each start would compile the sources.
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(HERE.parent / "xrouter")], check=True)
        for name, python in (("xrouter", sys.executable), ("xrouter, Debian's Python", peers.own_environment())):
            with tempfile.TemporaryDirectory() as folder:
                environ = {
                    **os.environ,
                    "PYTHONPATH": str(HERE.parent),
                    "BENCH_STORE": f"sqlite:///{folder}/s.db",
                    "BENCH_HOST": UPSTREAM,
                }
                measures.start_to_ready(figures, lambda python=python, environ=environ: _start(python, environ), name)
                for package, ms in measures.dearest_imports(python, environ):
                    measures.note(figures, f"import ms, {name}", package, ms)


def _start(python: str, environ: dict[str, str]) -> float:
    """Seconds from the command to the first answer that says ready."""
    began = time.perf_counter()
    serve = [python, "-m", "xrouter.cli", "serve", "-c", str(CONFIG), "--port", str(_START_PORT)]
    with process(pinned(0, *serve), env=environ, stderr=subprocess.DEVNULL):
        wait_for(f"http://127.0.0.1:{_START_PORT}/health/ready", look_s=0.01)
        return time.perf_counter() - began


def _machine() -> dict[str, str]:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ": unknown")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout
    banner = subprocess.run([needed("nginx"), "-v"], capture_output=True, text=True).stderr
    return {
        "cores": str(os.cpu_count()),
        "processor": model.split(":", 1)[1].strip(),
        "kernel": platform.release(),
        "python": f"{platform.python_version()} ({platform.python_compiler()})",
        "nginx": banner.strip().rsplit("/", 1)[-1],
        "commit": commit.strip(),
    }


def main() -> None:
    rows = [name.removeprefix("row_") for name in dir(Bench) if name.startswith("row_")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(rows), help="which (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each server (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="of each load (default: %(default)s)")
    parser.add_argument(
        "--idle",
        type=int,
        default=8000,
        help="open silent streams on one worker; two get a quarter more (default: %(default)s)",
    )
    parser.add_argument("--sustained", type=int, default=60, help="seconds at 1 000 requests/s (default: %(default)s)")
    parser.add_argument("--report", action="store_true", help="write docs/performance.md and its plots, too")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end too
    os.sched_setaffinity(0, {LOAD_CORE})
    peers.HOME.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.rounds, args.seconds, args.idle, args.sustained)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    with upstream():
        for name in filter(None, args.rows.split(",")):
            print(f"{name} …", flush=True)
            began, figures = time.monotonic(), Figures()
            measure: Callable[[Figures], None] = getattr(bench, f"row_{name}")
            measure(figures)
            results["rows"][name] = {"at": datetime.now(UTC).isoformat(timespec="minutes"), "figures": figures}
            results |= {"machine": _machine(), "versions": bench.versions, "absent": bench.absent}
            RESULTS.write_text(json.dumps(results, indent=1))
            print(f"  {time.monotonic() - began:.0f} s", flush=True)
    if args.report:
        subprocess.run([sys.executable, str(HERE / "report.py")], check=True)


if __name__ == "__main__":
    try:
        main()
    except Missing as missing:
        sys.exit(f"bench: {missing}")
