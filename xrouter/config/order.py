"""Whether the filters stand in an order in which each finds the facts that it needs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from xrouter.config.problems import Place

DISPATCH_NEEDS: Final = frozenset({"call", "route"})
"""What the innermost frame reads of every request, whatever the filters are."""


@dataclass(frozen=True, slots=True)
class Step:
    """One filter of the chain as its class declares it."""

    name: str
    needs: frozenset[str]
    provides: frozenset[str]
    place: Place


def order_problems(steps: Sequence[Step], end: Place) -> Iterator[tuple[Place, str]]:
    """What is wrong with the order, walking from the outermost filter in; `end` is where to name the chain as a whole.

    A fact is written once, so a second provider is wrong too.
    """
    providers: dict[str, str] = {}
    for step in steps:
        for fact in sorted(step.needs - providers.keys()):
            yield step.place, f"{step.name} needs `{fact}`; no filter above it provides that"
        for fact in sorted(step.provides):
            if fact in providers:
                yield step.place, f"{step.name} provides `{fact}`, as {providers[fact]} above it already does"
            else:
                providers[fact] = step.name
    for fact in sorted(DISPATCH_NEEDS - providers.keys()):
        yield end, f"dispatch needs `{fact}`; no filter provides that"
