"""Breadth-first search through every state that a model can reach.

States are hashable values. The search ends at the first state that breaks a property, with the shortest trace to it; when
none does, it looks for states from which no quiescent one can be reached any more.
"""

from array import array
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)


class Model(Protocol[S]):
    def initial(self) -> S: ...

    def steps(self, state: S) -> Iterable[tuple[str, S]]:
        """What can happen next, each with its name."""

    def problem(self, state: S) -> str | None:
        """The property that `state` breaks."""

    def quiescent(self, state: S) -> bool:
        """Whether everything that was begun has ended here."""


@dataclass(frozen=True, slots=True)
class Explored(Generic[S]):
    """`complete`: all states were seen. `problem`: the property that does not hold, with the `trace` of steps to where."""

    states: int
    transitions: int
    depth: int
    complete: bool
    problem: str | None = None
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = f"{self.states} states, {self.transitions} transitions, depth {self.depth}"
        if self.problem is None:
            return told + ("" if self.complete else ", not complete")
        steps = "".join(f"\n  {number}. {step}" for number, step in enumerate(self.trace, 1))
        return f"{told}: {self.problem}{steps}"


def explore(model: Model[S], most_states: int = 10_000_000) -> Explored[S]:
    states: list[S] = [model.initial()]
    number: dict[S, int] = {states[0]: 0}
    parent, came_by, depth = array("l", [-1]), [""], array("l", [0])
    sources, targets = array("l"), array("l")

    def told(problem: str | None, at: int, complete: bool) -> Explored[S]:
        trace: list[str] = []
        while problem is not None and at > 0:
            trace.append(came_by[at])
            at = parent[at]
        return Explored(len(states), len(sources), depth[-1], complete, problem, tuple(reversed(trace)))

    if problem := model.problem(states[0]):
        return told(problem, 0, False)
    at = 0
    while at < len(states):
        if len(states) > most_states:
            return told(None, at, False)
        for name, after in model.steps(states[at]):
            found = number.get(after)
            if found is None:
                found = number[after] = len(states)
                states.append(after)
                parent.append(at)
                came_by.append(name)
                depth.append(depth[at] + 1)
                if problem := model.problem(after):
                    return told(problem, found, False)
            sources.append(at)
            targets.append(found)
        at += 1
    stuck = _stuck(states, sources, targets, model)
    if stuck is not None:
        return told("nothing leads to quiescence any more", stuck, True)
    return told(None, 0, True)


def _stuck(states: list[S], sources: "array[int]", targets: "array[int]", model: Model[S]) -> int | None:
    """The first state from which no quiescent one can be reached."""
    before: list[list[int]] = [[] for _ in states]
    for source, target in zip(sources, targets, strict=True):
        before[target].append(source)
    ends = [at for at, state in enumerate(states) if model.quiescent(state)]
    reaching = bytearray(len(states))
    for end in ends:
        reaching[end] = 1
    while ends:
        for source in before[ends.pop()]:
            if not reaching[source]:
                reaching[source] = 1
                ends.append(source)
    stuck = reaching.find(0)
    return None if stuck < 0 else stuck
