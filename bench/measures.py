"""What is measured, one function a row. Each turn gives one figure a server; the report compares figures of one turn."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import uvloop
from clients import Answers, Client, open_streams
from parts import Load, Server, wrk


def chat(text: str, model: str = "bench", **more: object) -> str:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": f"What is the capital of Peru?{text}"},
    ]
    body = {"model": model, "messages": messages, "temperature": 0.5, "max_tokens": 100, **more}
    return json.dumps(body, separators=(",", ":"))


PLAIN = chat("")
CHUNKS = 200
IDLE = chat("[[idle]]", stream=True)
Figures = dict[str, dict[str, list[float]]]  # measure → server → one figure a turn


@dataclass(frozen=True)
class Entry:
    """A server, and how it is asked: the model and the path differ by what stands behind it."""

    server: Server
    path: str = "/v1/chat/completions"
    model: str = "bench"
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.server.name


def note(figures: Figures, measure: str, server: str, value: float) -> None:
    figures.setdefault(measure, {}).setdefault(server, []).append(value)


def in_turns(entries: Sequence[Entry], rounds: int, one: Callable[[Entry], None]) -> None:
    for turn in range(rounds):
        for entry in entries if turn % 2 == 0 else list(reversed(entries)):
            one(entry)


def _checked(entry: Entry, load: Load) -> Load:
    if load.failures:
        print(f"  {entry.name}: {load.failures} failures", file=sys.stderr)
    return load


def requests(figures: Figures, entries: Sequence[Entry], rounds: int, seconds: int) -> None:
    """Small whole answers, 64 connections, as many as it can."""

    def one(entry: Entry) -> None:
        load = _checked(entry, wrk(entry.server, chat("", entry.model), 64, seconds, entry.path))
        note(figures, "requests/s", entry.name, load.per_s)
        note(figures, "failures", entry.name, load.failures)
        note(figures, "CPU µs a request", entry.name, load.cpu_us)
        note(figures, "p99 ms at the limit", entry.name, load.p99_ms)
        note(figures, "resident MB", entry.name, entry.server.resident_kb() / 1024)

    in_turns(entries, rounds, one)


def workers(figures: Figures, entries: Sequence[Entry], rounds: int, seconds: int) -> None:
    """As `requests`, and how much of the machine's time was the gateway's own."""

    def one(entry: Entry) -> None:
        load = _checked(entry, wrk(entry.server, PLAIN, 64, seconds))
        note(figures, "requests/s", entry.name, load.per_s)
        note(figures, "CPU µs a request", entry.name, load.cpu_us)
        note(figures, "share of the machine", entry.name, load.cpu_s / load.seconds / (os.cpu_count() or 1))

    in_turns(entries, rounds, one)


def streams(figures: Figures, entries: Sequence[Entry], rounds: int, seconds: int, separate: bool) -> None:
    """64 streams of 200 chunks, as many as it can."""
    how = "separate" if separate else "burst"
    wish = f"[[chunks={CHUNKS}]]" + ("[[separate]]" if separate else "")

    def one(entry: Entry) -> None:
        body = chat(wish, entry.model, stream=True, stream_options={"include_usage": True})
        load = wrk(entry.server, body, 64, seconds, entry.path)
        if load.requests < 4 * 64:  # streams longer than the window: it counted only those that ended in it
            load = wrk(entry.server, body, 64, 15 * seconds, entry.path)
        _checked(entry, load)
        note(figures, f"chunks/s, {how}", entry.name, load.per_s * CHUNKS)
        note(figures, f"CPU µs a chunk, {how}", entry.name, load.cpu_us / CHUNKS)

    in_turns(entries, rounds, one)


def latency(figures: Figures, entries: Sequence[Entry], rounds: int, seconds: int, samples: Figures) -> None:
    """100 requests/s: whole answers, and the first byte of streams."""

    def one(entry: Entry) -> None:
        for what, body in (
            ("whole", PLAIN),
            ("first byte", chat("[[chunks=20]][[separate]]", stream=True)),
        ):
            client = Client(entry.server.url, entry.server.headers)
            answers = uvloop.run(client.steady(body, 100, seconds))
            note(figures, f"errors, {what}", entry.name, answers.errors)
            first = what == "first byte"
            for q in (0.5, 0.99):
                note(figures, f"{what} p{q * 100:.0f} ms", entry.name, answers.ms(q, first=first))
            taken = answers.first_s if first else answers.whole_s
            samples.setdefault(what, {}).setdefault(entry.name, []).extend(taken)

    in_turns(entries, rounds, one)


def sustained(figures: Figures, entry: Entry, seconds: int) -> Answers:
    """1 000 requests/s: share of a core, memory, errors."""
    before, began = entry.server.cpu_s(), time.perf_counter()
    answers = uvloop.run(Client(entry.server.url, entry.server.headers).steady(PLAIN, 1000, seconds))
    took_s = time.perf_counter() - began
    note(figures, "CPU share", entry.name, (entry.server.cpu_s() - before) / took_s)
    note(figures, "resident MB after", entry.name, entry.server.resident_kb() / 1024)
    note(figures, "errors", entry.name, answers.errors)
    note(figures, "p99 ms", entry.name, answers.ms(0.99))
    note(figures, "seconds", entry.name, seconds)
    return answers


def idle(figures: Figures, entry: Entry, number: int) -> None:
    """Open silent streams: memory of each, and what others feel of them."""

    async def run() -> None:
        async def others(label: str) -> None:
            answers = await Client(entry.server.url, entry.server.headers).steady(PLAIN, 100, 5)
            note(figures, f"p99 ms of others, {label}", entry.name, answers.ms(0.99))

        await others("without")
        before = entry.server.resident_kb()
        async with open_streams(Client(entry.server.url, entry.server.headers), IDLE, number):
            note(figures, "kB each", entry.name, (entry.server.resident_kb() - before) / number)
            used, began = entry.server.cpu_s(), time.perf_counter()
            await asyncio.sleep(5)
            note(
                figures,
                "CPU share of their idling",
                entry.name,
                (entry.server.cpu_s() - used) / (time.perf_counter() - began),
            )
            await others("with")
        note(figures, "streams", entry.name, number)

    uvloop.run(run())


def large(figures: Figures, entry: Entry, seconds: int) -> None:
    """Large bodies, answers and chunks: CPU by size, and the p99 of small requests beside them, at 100 requests/s."""
    cases: Mapping[str, tuple[str, float]] = {
        "nothing large": ("", 0),
        "bodies of 100 kB": (chat("a word " * 14_300), 20),
        "bodies of 1 MB": (chat("a word " * 143_000), 4),
        "answers of 1 MB": (chat(f"[[bytes={10**6}]]"), 20),
        "answers of 10 MB": (chat(f"[[bytes={10**7}]]"), 2),
        "20 chunks of 10 kB": (chat(f"[[chunks=20]][[separate]][[bytes={10**4}]]", stream=True), 20),
        "20 chunks of 100 kB": (chat(f"[[chunks=20]][[separate]][[bytes={10**5}]]", stream=True), 4),
    }

    async def run(body: str, per_s: float) -> tuple[Answers, Answers]:
        small = Client(entry.server.url, entry.server.headers)
        big = Client(entry.server.url, entry.server.headers)
        with_body = big.steady(body, per_s, seconds) if per_s else asyncio.sleep(0, big.answers)
        return await asyncio.gather(small.steady(PLAIN, 100, seconds), with_body)

    base_cpu_s = 0.0  # clock ticks are 10 ms: a difference of a few is noise, so large requests have to be many
    uvloop.run(run(PLAIN, 100))  # to warm up
    for name, (body, per_s) in cases.items():
        before = entry.server.cpu_s()
        small, big = uvloop.run(run(body, per_s))
        cpu_s = entry.server.cpu_s() - before
        note(figures, "p99 ms of others", name, small.ms(0.99))
        if per_s:
            note(figures, "CPU ms each", name, (cpu_s - base_cpu_s) / (per_s * seconds) * 1000)
            note(figures, "errors", name, big.errors + small.errors)
        else:
            base_cpu_s = cpu_s


def start_to_ready(figures: Figures, start: Callable[[], float], name: str, turns: int = 5) -> None:
    for _ in range(turns):
        note(figures, "seconds", name, start())


_SERVE = """
from xrouter.imports import lasting_imports
with lasting_imports():
    import xrouter.commands.serve
"""


def dearest_imports(python: str, environ: Mapping[str, str], number: int = 12) -> list[tuple[str, float]]:
    """Packages by the milliseconds that importing what `xrouter serve` needs takes of each, their own modules together."""
    run = subprocess.run(
        [python, "-X", "importtime", "-c", _SERVE],
        env=dict(environ), capture_output=True, text=True, check=True,
    )  # fmt: skip
    own_ms: dict[str, float] = {}
    for line in run.stderr.splitlines():
        own_us, _, name = (part.strip() for part in line.removeprefix("import time:").split("|"))
        if own_us.isdigit():
            package = name.partition(".")[0]
            own_ms[package] = own_ms.get(package, 0) + int(own_us) / 1000
    return sorted(own_ms.items(), key=lambda item: -item[1])[:number]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
