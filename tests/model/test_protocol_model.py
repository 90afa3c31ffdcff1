"""The ledger's protocol, searched whole: every order of steps and faults of the configurations keeps every property."""

import re

import pytest
from model.configurations import BOUNDED, Configuration
from model.explorer import Explored, explore
from model.gateway import Protocol
from model.mutants import MUTANTS
from model.state import State


def searched(protocol: type[Protocol], configuration: Configuration) -> Explored[State]:
    generations, faults, balance = configuration
    return explore(protocol(generations, faults, balance=balance))


@pytest.mark.parametrize("name", BOUNDED)
def test_every_reachable_state_keeps_every_property(name: str) -> None:
    """And from each of them everything can still come to its end."""
    found = searched(Protocol, BOUNDED[name])
    print(f"{name}: {found}")
    assert found.complete
    assert found.problem is None, found


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_each_wrong_protocol_is_found(mutant: type[Protocol]) -> None:
    """With the shortest way to where it goes wrong: `pytest -s` prints it."""
    configuration, expected = MUTANTS[mutant]
    found = searched(mutant, configuration)
    print(f"{mutant.__doc__}\n{found}")
    assert found.problem is not None, f"not found in {found}"
    assert re.search(expected, found.problem), found
    assert found.trace


def test_a_process_that_starts_as_the_clock_is_set_is_a_known_limit() -> None:
    """It has no earlier time to compare with: it expires what the living have not renewed yet (docs/ledger-model.md)."""

    class Strict(Protocol):
        def is_known_limit(self, *_: object) -> bool:
            return False

    found = searched(Strict, BOUNDED["a kill, and the clock is set"])
    assert found.problem is not None
    assert "under a living process" in found.problem
    assert any("starts again" in step for step in found.trace)
