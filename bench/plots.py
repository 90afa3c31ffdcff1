"""The plots of docs/performance.md, as SVG: requests a second, latencies as distributions, and a soak's course over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "xrouter"  # the same figures make the same file
mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["font.size"] = 9

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

_POINTS = 200  # of a distribution: a plot shows no more


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def throughput(figures: Mapping[str, Sequence[float]], path: Path) -> None:
    """Median requests a second of each server, with the range of its turns, on a logarithmic axis."""
    names = sorted(figures, key=lambda name: sorted(figures[name])[len(figures[name]) // 2])
    middle = [sorted(figures[name])[len(figures[name]) // 2] for name in names]
    below = [m - min(figures[name]) for m, name in zip(middle, names, strict=True)]
    above = [max(figures[name]) - m for m, name in zip(middle, names, strict=True)]
    figure, axes = plt.subplots(figsize=(7, 2.8))
    axes.barh(names, middle, xerr=(below, above), capsize=3, color="#4878a8")
    axes.set_xscale("log")
    axes.set_xlabel("requests/s on one core, 64 connections")
    _save(figure, path)


def distribution(samples: Mapping[str, Sequence[float]], path: Path, xlabel: str) -> None:
    """The share of answers that came within a time; `samples` in seconds."""
    figure, axes = plt.subplots(figsize=(7, 3))
    for name, values in samples.items():
        ordered = sorted(value * 1000 for value in values)
        step = max(1, len(ordered) // _POINTS)
        shares = [(index + 1) / len(ordered) for index in range(len(ordered))]
        axes.plot(ordered[::step], shares[::step], label=name, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel("share of answers")
    axes.legend(fontsize=7)
    _save(figure, path)


def course(samples: Sequence[Mapping[str, float]], path: Path) -> None:
    """A soak over time: one small plot for each of what is looked at. `samples` have `seconds` and the rest."""
    kinds = [kind for kind in samples[0] if kind != "seconds"]
    figure, rows = plt.subplots(len(kinds), 1, sharex=True, figsize=(7, 1.1 * len(kinds) + 0.6))
    minutes = [sample["seconds"] / 60 for sample in samples]
    for axes, kind in zip(rows, kinds, strict=True):
        axes.plot(minutes, [sample[kind] for sample in samples], linewidth=1, color="#4878a8")
        axes.set_ylim(bottom=0)
        axes.set_ylabel(kind, fontsize=7)
    rows[-1].set_xlabel("minutes")
    _save(figure, path)
