"""The simulation finds what it is there for: each bug that is planted in the production code, within a few seeds."""

from itertools import count

import pytest
from simulation.planted import PLANTED, planted
from simulation.sim_run import simulate

_REQUESTS = 150
_MOST_OPERATIONS = 60_000  # docs/simulation.md has what each has taken


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    done = 0
    with planted(name):
        for seed in count(5_000):
            result = simulate(seed, _REQUESTS)
            done += result.operations
            if result.problem is not None:
                return
            assert done < _MOST_OPERATIONS, f"not found in {done} operations"


def test_nothing_is_found_where_nothing_is_planted() -> None:
    """The seeds in which the bugs are found are clean without them."""
    for seed in range(5_000, 5_008):
        assert simulate(seed, _REQUESTS).problem is None
