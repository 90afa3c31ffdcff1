"""`xrouter top`: the processes of a running gateway, as they are now."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from xrouter.wire import encode_json
from xrouter.workers.control import NoGateway, Question, ask
from xrouter.workers.messages import WorkerState

_CLEAR: Final = "\x1b[H\x1b[J"
_MB: Final = 1_000_000
_HEAD: Final = "WORKER      PID STATE     IN FLIGHT   REQUESTS    REQ/S  CPU %      MB       AGE  DIED"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "top",
        help="show the processes of a running gateway",
        description="Show each worker of the gateway that serves FILE on this machine: state, requests, CPU and memory.",
    )
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
    parser.add_argument("--interval", type=float, default=2.0, metavar="S", help="seconds between two looks (2)")
    parser.add_argument(
        "--once", action="store_true", help="look once and end; so it is where the output is no terminal"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line and end")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    before: dict[int, WorkerState] = {}
    try:
        while True:
            workers = ask(args.config, Question("fleet")).workers
            if args.json:
                print(encode_json({"workers": workers}).decode())
                return 0
            once = args.once or not sys.stdout.isatty()
            print(("" if once else _CLEAR) + _table(workers, before), flush=True)
            if once:
                return 0
            before = {worker.pid: worker for worker in workers}
            time.sleep(max(0.1, args.interval))
    except NoGateway as error:
        print(f"xrouter top: {error}", file=sys.stderr)
    except OSError as error:
        print(f"xrouter top: the gateway cannot be asked: {error.strerror or error}", file=sys.stderr)
    return 1


def _table(workers: Sequence[WorkerState], before: dict[int, WorkerState]) -> str:
    return "\n".join([_HEAD, *(_row(worker, before.get(worker.pid)) for worker in workers)])


def _row(now: WorkerState, before: WorkerState | None) -> str:
    """Rates are those since the last look, or since the worker started."""
    passed_s = max(now.age_s - (before.age_s if before else 0), 1e-3)
    rate = (now.requests - (before.requests if before else 0)) / passed_s
    cpu = 100 * (now.cpu_s - (before.cpu_s if before else 0)) / passed_s
    return (
        f"{now.number:>6} {now.pid:>8} {now.state:<9} {now.in_flight:>9} {now.requests:>10} {rate:>8.1f} {cpu:>6.1f}"
        f" {now.resident_bytes / _MB:>7.1f} {now.age_s:>8.0f}s {now.restarts:>5}"
    )
