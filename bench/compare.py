"""The gateway against nginx `proxy_pass`, same upstream, in turns on one core: ratios of one run.

    make bench            or            python bench/compare.py [--seconds N] [--rounds N] [--config FILE]

The gateway (or nginx) has one core, load generator and upstream the other. Absolute figures drift with the machine and with
what else it does: read the ratios, and CPU a request, which does not depend on a busy machine as much.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path

from parts import HERE, Missing, Server, gateway, nginx, upstream, wrk

PLAIN = json.dumps(
    {
        "model": "bench",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is the capital of Peru?"},
        ],
        "temperature": 0.5,
        "max_tokens": 100,
    },
    separators=(",", ":"),
)
STREAM = PLAIN[:-1] + ',"stream":true,"stream_options":{"include_usage":true}}'
IDLE = STREAM.replace("What is", "[[idle]] What is")
CHUNKS = 50


async def paced(server: Server, body: str, per_s: int, seconds: float) -> list[float]:
    """Seconds to each whole answer at a steady rate over kept-alive connections."""
    host, port = server.url.removeprefix("http://").split(":")
    head = "".join(f"{name}: {value}\r\n" for name, value in server.headers.items())
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{head}"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    pool: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    times: list[float] = []

    async def one() -> None:
        reader, writer = pool.pop() if pool else await asyncio.open_connection(host, int(port))
        began = time.perf_counter()
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        times.append(time.perf_counter() - began)
        pool.append((reader, writer))

    tasks = []
    start = time.perf_counter()
    for number in range(int(per_s * seconds)):
        await asyncio.sleep(max(0.0, start + number / per_s - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    for _, writer in pool:
        writer.close()
    return times


async def idle_streams(server: Server, number: int) -> float:
    """Kilobytes of resident memory that each of `number` open, silent streams costs."""
    host, port = server.url.removeprefix("http://").split(":")
    head = "".join(f"{name}: {value}\r\n" for name, value in server.headers.items())
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{head}"
        f"Content-Length: {len(IDLE)}\r\n\r\n{IDLE}"
    ).encode()
    before = server.resident_kb()
    writers: list[asyncio.StreamWriter] = []

    async def one() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        writer.write(request)
        await reader.readuntil(b"\r\n\r\n")

    for begin in range(0, number, 100):
        await asyncio.gather(*(one() for _ in range(min(100, number - begin))))
    await asyncio.sleep(1)
    after = server.resident_kb()
    for writer in writers:
        with contextlib.suppress(OSError):
            writer.close()
    return (after - before) / number


def ratio(ours: list[float], theirs: list[float]) -> str:
    each = [our / their for our, their in zip(ours, theirs, strict=True)]
    return f"{statistics.median(each):.3f}  ({min(each):.3f} to {max(each):.3f})"


def quantile(times: list[float], q: float) -> float:
    return sorted(times)[int(len(times) * q)] * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of each load (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: %(default)s)")
    parser.add_argument("--config", type=Path, default=HERE / "bench.yaml", help="the gateway's configuration")
    parser.add_argument("--credits", help="grant the key so many: for a configuration with prices")
    parser.add_argument("--idle", type=int, default=5000, help="open silent streams (default: %(default)s)")
    args = parser.parse_args()
    with upstream(), nginx() as plain, gateway(args.config, credits=args.credits) as ours:
        figures: dict[str, dict[str, list[float]]] = {}
        for round_ in range(args.rounds):
            for server in (plain, ours) if round_ % 2 == 0 else (ours, plain):
                mine = figures.setdefault(server.name, {"requests": [], "cpu": [], "chunks": [], "chunk_cpu": []})
                load = wrk(server, PLAIN, 64, args.seconds)
                assert not load.failures, f"{server.name}: {load.failures} failures"
                mine["requests"].append(load.per_s)
                mine["cpu"].append(1 / load.cpu_us)
                load = wrk(server, STREAM, 64, args.seconds)
                assert not load.failures, f"{server.name}: {load.failures} failures"
                mine["chunks"].append(load.per_s * CHUNKS)
                mine["chunk_cpu"].append(1 / load.cpu_us)
        gw, ng = figures["xrouter"], figures["nginx"]
        print(f"requests/s against nginx            {ratio(gw['requests'], ng['requests'])}")
        print(f"  the same by CPU a request         {ratio(gw['cpu'], ng['cpu'])}")
        print(f"streamed chunks/s against nginx     {ratio(gw['chunks'], ng['chunks'])}")
        print(f"  the same by CPU a stream          {ratio(gw['chunk_cpu'], ng['chunk_cpu'])}")
        direct = asyncio.run(paced(plain, PLAIN, 100, args.seconds))
        through = asyncio.run(paced(ours, PLAIN, 100, args.seconds))
        for name, q in (("p50", 0.5), ("p99", 0.99)):
            added = quantile(through, q) - quantile(direct, q)
            print(f"added at 100 requests/s, {name}        {added:.2f} ms over nginx's {quantile(direct, q):.2f} ms")
        served = 0
        first = ours.resident_kb()
        while served < 100_000:
            served += wrk(ours, PLAIN, 64, args.seconds).requests
        print(f"resident after {served} requests   {ours.resident_kb() / 1024:.1f} MB (before: {first / 1024:.1f} MB)")
        print(f"each of {args.idle} idle streams         {asyncio.run(idle_streams(ours, args.idle)):.1f} kB")


if __name__ == "__main__":
    try:
        main()
    except Missing as missing:
        sys.exit(f"bench: {missing}")
