"""What the gateway does with more than it can: goodput and latency at the limit, far above it, and for a quiet client.

    python bench/overload.py [--seconds N] [--rounds N]

Closed: so many users who ask again at once, and who do so too when they are told 503. Open: a crowd that asks three and ten
times as often as the gateway can answer, whatever it is answered; each waits ten seconds.

Rates are in seconds of the gateway's CPU time, and so is goodput: three times the capacity stays that on a machine that has
other things to do as well. Latencies are in the time of the wall, and such a machine makes them longer. Figures go to
.run/bench/overload.json.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

from clients import Client, quantile
from compare import CONFIG, CREDITS
from crowd import Crowd, offer
from measures import PLAIN, Figures, note
from parts import LOAD_CORE, Server, gateway, upstream, wrk
from peers import HOME

_IDLE_SHARE = 0.02  # of the wall's seconds in the clock of rates: a gateway that waits for requests uses no CPU
Row = dict[str, float]


def closed(server: Server, users: int, seconds: int) -> Row:
    cpu_s, began = server.cpu_s(), time.perf_counter()
    load = wrk(server, PLAIN, users, seconds)
    cpu_s, took_s = server.cpu_s() - cpu_s, time.perf_counter() - began
    good = load.requests - load.failures
    return {
        "good/CPU s": good / cpu_s, "share of a core": cpu_s / took_s, "p50 ms": load.p50_ms, "p99 ms": load.p99_ms,
        "answered 503": load.failures / load.requests, "lost": 0,
    }  # fmt: skip


def opened(server: Server, crowd: Crowd, others: list[Crowd], seconds: float) -> Row:
    cpu_s, began = server.cpu_s(), time.perf_counter()
    offer(server.url, [crowd, *others], seconds)
    cpu_s, took_s = server.cpu_s() - cpu_s, time.perf_counter() - began
    answers = crowd.answers
    return {
        "good/CPU s": answers.statuses.get(200, 0) / cpu_s, "share of a core": cpu_s / took_s, **latency(crowd),
        "offered/s": crowd.sent / answers.seconds,
    }  # fmt: skip


def latency(crowd: Crowd) -> Row:
    answers = crowd.answers
    row = {
        "p50 ms": answers.ms(0.5), "p99 ms": answers.ms(0.99), "answered 503": answers.statuses.get(503, 0) / crowd.sent,
        "lost": answers.lost / crowd.sent,
    }  # fmt: skip
    if crowd.shed_s:
        row |= {"503 p50 ms": quantile(crowd.shed_s, 0.5) * 1000, "503 p99 ms": quantile(crowd.shed_s, 0.99) * 1000}
    return row


def capacity_clock(server: Server) -> Callable[[], float]:
    return lambda: server.cpu_s() + _IDLE_SHARE * time.perf_counter()


def one_round(server: Server, seconds: int) -> dict[str, Row]:
    clock = capacity_clock(server)
    noisy = Client(server.url, server.headers).request(PLAIN)
    quiet = Client(server.url, server.other_headers).request(PLAIN)
    rows = {f"{users} users who ask at once": closed(server, users, seconds) for users in (16, 64, 256, 512, 1024)}
    peak = max(row["good/CPU s"] for row in rows.values())
    for times in (3, 10):
        crowd = Crowd(noisy, times * peak, clock)
        rows[f"{times} times the peak, open"] = opened(server, crowd, [], seconds)
    beside = Crowd(quiet, 10)
    opened(server, Crowd(noisy, 3 * peak, clock), [beside], seconds)
    rows["a quiet key beside 3 times the peak"] = latency(beside)
    for row in rows.values():
        if "good/CPU s" in row:
            row["of the peak"] = row["good/CPU s"] / peak
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of each load (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="each with a peak of its own (default: %(default)s)")
    args = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    figures: Figures = {}  # load → kind → one figure a round
    with upstream(), gateway(CONFIG, credits=CREDITS, two_keys=True) as server:
        wrk(server, PLAIN, 64, 2)  # to warm up
        for _ in range(args.rounds):
            for name, row in one_round(server, args.seconds).items():
                print(f"{name:38}", "  ".join(f"{kind} {value:.2f}" for kind, value in row.items()), flush=True)
                for kind, value in row.items():
                    note(figures, name, kind, value)
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / "overload.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
