"""What the gateway does with more than it can: goodput and latency at the limit, far above it, and for a quiet client.

    python bench/overload.py [--seconds N]

Closed: so many users who ask again at once. Open: three times what it can, whatever it answers, as crowds do; a client waits
ten seconds, and the load lasts twice as long. Good is what was answered while the load lasted. Figures go to
.run/bench/overload.json.
"""

import argparse
import asyncio
import json
import os
from typing import Any

import uvloop
from clients import Client
from compare import CONFIG, CREDITS
from measures import PLAIN
from parts import LOAD_CORE, Server, gateway, upstream, wrk
from peers import HOME

_PATIENCE_S = 10.0


async def quiet_beside(server: Server, connections: int, seconds: int) -> tuple[Any, Any]:
    """A client with 10 requests/s beside a noisy one."""
    noisy = asyncio.to_thread(wrk, server, PLAIN, connections, seconds)
    quiet = Client(server.url, server.headers, _PATIENCE_S).steady(PLAIN, 10, seconds)
    return await asyncio.gather(noisy, quiet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of each load (default: %(default)s)")
    args = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    figures: dict[str, dict[str, float]] = {}
    with upstream(), gateway(CONFIG, credits=CREDITS) as server:
        wrk(server, PLAIN, 64, 2)  # to warm up
        closed = {users: wrk(server, PLAIN, users, args.seconds) for users in (16, 64, 256, 512, 1024)}
        peak = max(load.per_s for load in closed.values())
        for users, load in closed.items():
            figures[f"{users} users who ask at once"] = {
                "good/s": load.per_s, "of the peak": load.per_s / peak, "p50 ms": load.p50_ms, "p99 ms": load.p99_ms,
                "failures": load.failures,
            }  # fmt: skip
        crowd = Client(server.url, server.headers, _PATIENCE_S)
        answers = uvloop.run(crowd.steady(PLAIN, 3 * peak, max(2 * _PATIENCE_S, args.seconds)))
        figures["three times the peak, open"] = {
            "good/s": answers.good_per_s, "of the peak": answers.good_per_s / peak, "p50 ms": answers.ms(0.5),
            "p99 ms": answers.ms(0.99), "failures": answers.errors,
            "offered/s": (answers.errors + len(answers.whole_s)) / answers.seconds,
        }  # fmt: skip
        noisy, quiet = uvloop.run(quiet_beside(server, 512, args.seconds))
        figures["a quiet client beside 512 users"] = {
            "good/s": quiet.good_per_s, "p50 ms": quiet.ms(0.5), "p99 ms": quiet.ms(0.99), "failures": quiet.errors,
            "noisy good/s": noisy.per_s,
        }  # fmt: skip
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / "overload.json").write_text(json.dumps(figures, indent=1))
    for name, row in figures.items():
        print(f"{name:36}", "  ".join(f"{kind} {value:.2f}" for kind, value in row.items()))


if __name__ == "__main__":
    main()
