"""docs/performance.md's tables, between its marks, and its plots, from what the measurements left in .run/bench/.

python bench/report.py
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import plots
from peers import HOME, PEERS

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "performance.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
OURS, DEBIAN, SHARED = "xrouter", "xrouter, Debian's Python", "xrouter, PostgreSQL + Redis"


def spread(values: Sequence[float], digits: int = 2) -> str:
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratio(ours: Sequence[float], theirs: Sequence[float], digits: int = 3) -> str:
    """Of figures of the same turn; nothing where the other served nothing."""
    each = [our / their for our, their in zip(ours, theirs, strict=True) if their]
    return spread(each, digits) if each else "served none"


def table(*rows: Sequence[str]) -> Iterator[str]:
    yield "| " + " | ".join(rows[0]) + " |"
    yield "|" + "---|" * len(rows[0])
    for row in rows[1:]:
        yield "| " + " | ".join(row) + " |"


def requests(row: Any) -> Iterator[str]:
    per_s = row["requests/s"]
    cpu = row["CPU µs a request"]
    lines = [["server", "requests/s", "against nginx", "CPU µs a request", "resident MB", "failures"]]
    lines += [
        [
            name,
            spread(values, 0),
            ratio(values, per_s["nginx"]),
            spread(cpu[name], 0),
            spread(row["resident MB"][name], 0),
            f"{sum(row['failures'][name]):.0f}",
        ]
        for name, values in per_s.items()
    ]
    yield from table(*lines)
    yield ""
    others = [name for name in ("sglang-router", "portkey", "litellm") if name in per_s]
    yield from table(
        ["requests/s against", *others],
        *([ours, *(ratio(per_s[ours], per_s[other], 2) for other in others)] for ours in (OURS, DEBIAN, SHARED)),
    )


def streams(row: Any) -> Iterator[str]:
    for how, said in (
        ("separate", "one write a chunk, as models send them"),
        ("burst", "all chunks of a stream at once"),
    ):
        per_s = row[f"chunks/s, {how}"]
        lines = [[f"chunks/s, {said}", "chunks/s", "against nginx", "CPU µs a chunk"]]
        for name, values in per_s.items():
            dialect = next((d for d in ("GigaChat", "YandexGPT") if d in name), "OpenAI")
            dialect = "GigaChat" if name == "gpt2giga" else dialect
            against = ratio(values, per_s[f"nginx, {dialect}'s chunks"])
            lines.append([name, spread(values, 0), against, spread(row[f"CPU µs a chunk, {how}"][name])])
        yield from table(*lines)
        yield ""


def latency(row: Any) -> Iterator[str]:
    kinds = ("whole p50 ms", "whole p99 ms", "first byte p50 ms", "first byte p99 ms")
    lines = [["added at 100 requests/s, ms", "answer p50", "answer p99", "first byte p50", "first byte p99"]]
    for name in row[kinds[0]]:
        if name == "no gateway":
            lines.append(["(no gateway: the whole time)", *(spread(row[kind][name]) for kind in kinds)])
            continue
        cells = []
        for kind in kinds:
            if any(row[f"errors, {kind.rpartition(' p')[0]}"][name]):
                cells.append("not measured: errors")
                continue
            pairs = zip(row[kind][name], row[kind]["no gateway"], strict=True)
            cells.append(spread([through - direct for through, direct in pairs]))
        lines.append([name, *cells])
    yield from table(*lines)


def sustained(row: Any) -> Iterator[str]:
    lines = [["1 000 requests/s", "seconds", "share of a core", "resident MB", "p99 ms", "errors"]]
    for name in row["CPU share"]:
        share = f"{statistics.median(row['CPU share'][name]) * 100:.0f} %"
        rest = (spread(row[kind][name], 0) for kind in ("resident MB after", "p99 ms", "errors"))
        lines.append([name, spread(row["seconds"][name], 0), share, *rest])
    yield from table(*lines)


def workers(row: Any) -> Iterator[str]:
    per_s = row["requests/s"]
    first = next(iter(per_s.values()))
    lines = [["on both cores, beside load and upstream", "requests/s", "against one", "CPU µs", "share of the machine"]]
    for name, values in per_s.items():
        share = f"{statistics.median(row['share of the machine'][name]) * 100:.0f} %"
        cpu = spread(row["CPU µs a request"][name], 0)
        lines.append([name, spread(values, 0), ratio(values, first, 2), cpu, share])
    yield from table(*lines)


def idle(row: Any) -> Iterator[str]:
    lines = [
        [
            "on",
            "open silent streams",
            "kB each",
            "share of a core",
            "p99 ms of others before",
            "p99 ms of others beside",
        ]
    ]
    for name, number in row["streams"].items():
        lines.append(
            [
                name,
                f"{number[0]:.0f}",
                spread(row["kB each"][name], 1),
                f"{row['CPU share of their idling'][name][0] * 100:.1f} %",
                spread(row["p99 ms of others, without"][name], 1),
                spread(row["p99 ms of others, with"][name], 1),
            ]
        )
    yield from table(*lines)


def large(row: Any) -> Iterator[str]:
    lines = [["beside 100 small requests/s", "CPU ms each", "p99 ms of the small ones", "errors"]]
    for name, p99 in row["p99 ms of others"].items():
        cpu, errors = row["CPU ms each"].get(name), row["errors"].get(name, [0])
        lines.append([name, spread(cpu, 1) if cpu else "", spread(p99, 1), f"{errors[0]:.0f}"])
    yield from table(*lines)


def start(row: Any) -> Iterator[str]:
    yield from table(["start to ready", "seconds"], *([name, spread(v)] for name, v in row["seconds"].items()))
    yield ""
    for name in row["seconds"]:
        dearest = list(row[f"import ms, {name}"].items())[:4]
        yield (
            f"Dearest imports of {name}, ms: "
            + ", ".join(f"{p} {statistics.median(ms):.0f}" for p, ms in dearest)
            + "."
        )
        yield ""


def overload(figures: Any) -> Iterator[str]:
    yield "Goodput in answers per second of the gateway's CPU time; the load's rate is in the same seconds."
    yield ""
    lines = [
        [
            "load",
            "good/CPU s",
            "of the peak",
            "share of a core",
            "p50 ms",
            "p99 ms",
            "answered 503",
            "503 p50 ms",
            "lost",
        ]
    ]
    digits = {"of the peak": 2, "share of a core": 2, "answered 503": 2, "lost": 3}
    for name, row in figures.items():
        cells = (spread(row[kind], digits.get(kind, 0)) if kind in row else "" for kind in lines[0][1:])
        lines.append([name, *cells])
    yield from table(*lines)


def soak(samples: Any, proof: Any) -> Iterator[str]:
    kinds = [kind for kind in samples[0] if kind != "seconds"]
    lines = [["minutes", *kinds]]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        one = samples[round(share * (len(samples) - 1))]
        lines.append([f"{one['seconds'] / 60:.1f}", *(f"{one[kind]:.0f}" for kind in kinds)])
    yield from table(*lines)
    yield ""
    verdict = "holds" if proof["ok"] else "FAILS"
    yield f"The ledger's proof afterwards {verdict}: {proof['entries']} entries, {proof['holds_open']} holds open."
    yield ""
    yield "![the soak's course](performance-soak.svg)"


TITLES = {
    "requests": ("Whole answers, as many as it can", requests),
    "streams": ("Streams, 64 at a time, 200 chunks each", streams),
    "latency": ("Added latency", latency),
    "sustained": ("A steady thousand", sustained),
    "workers": ("Workers", workers),
    "idle": ("Silent streams", idle),
    "large": ("Large bodies, answers and chunks", large),
    "start": ("Start", start),
}


def page(results: Any, before: Mapping[str, str]) -> Iterator[str]:
    """`before`: the page's sections by their titles, for measurements of their own that have not run on this machine."""
    machine = results["machine"]
    yield (
        f"{machine['cores']} shared cores ({machine['processor']}), Linux {machine['kernel']}, Python {machine['python']}, "
        f"nginx {machine['nginx']}, commit {machine['commit']}. "
        + ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        + "."
    )
    absent = results["absent"]
    yield (
        "Every peer was measured."
        if not absent
        else "Not measured: " + "; ".join(f"{k}: {v}" for k, v in absent.items())
    )
    for name, (title, rows) in TITLES.items():
        if name in results["rows"]:
            yield ""
            yield f"### {title}"
            yield ""
            yield from rows(results["rows"][name]["figures"])
            if name == "requests":
                yield ""
                yield "![requests a second](performance-throughput.svg)"
            if name == "latency" and (HOME / "latency.json").exists():
                yield ""
                yield "![latencies](performance-latency.svg)"
    if (found := _left("overload.json")) is not None:
        yield from ("", "### Overload", "", *overload(found))
    elif "Overload" in before:
        yield from ("", "### Overload", before["Overload"])
    if (found := _left("soak.json")) is not None:
        yield from ("", "### Soak", "", *soak(found, _left("soak-proof.json")))
    elif "Soak" in before:
        yield from ("", "### Soak", before["Soak"])


def _left(name: str) -> Any:
    """What a measurement has left; None if it has not run."""
    path = HOME / name
    return json.loads(path.read_text()) if path.exists() else None


def main() -> None:
    results = json.loads((HOME / "results.json").read_text())
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    measured, after = rest.split(END)
    sections = dict(part.split("\n", 1) for part in measured.rstrip("\n").split("\n### ")[1:])
    tables = "\n".join(page(results, sections)).replace("\n\n\n", "\n\n")
    PAGE.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}")
    if "requests" in results["rows"]:
        plots.throughput(results["rows"]["requests"]["figures"]["requests/s"], DOCS / "performance-throughput.svg")
    if (HOME / "latency.json").exists():
        samples = json.loads((HOME / "latency.json").read_text())["whole"]
        shown = {name: values for name, values in samples.items() if name == "no gateway" or name not in PEERS}
        shown |= {name: values for name, values in samples.items() if name in PEERS}
        plots.distribution(shown, DOCS / "performance-latency.svg", "ms to a whole answer at 100 requests/s")
    if (HOME / "soak.json").exists():
        plots.course(json.loads((HOME / "soak.json").read_text()), DOCS / "performance-soak.svg")


if __name__ == "__main__":
    main()
