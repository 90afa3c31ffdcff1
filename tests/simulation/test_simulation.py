"""The gateway and its ledger, simulated (docs/simulation.md): a bounded part of the long run, and that it replays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulation.__main__ import replay
from simulation.sim_run import simulate

_TESTS = Path(__file__).parents[1]
_REQUESTS = 300
_OPERATIONS = 31_000  # in each of ten parts, each far from the time that a test may take


@pytest.mark.parametrize("first", range(1_000, 11_000, 1_000))
def test_no_charge_is_lost_doubled_or_wrong(first: int) -> None:
    done, seed = 0, first
    while done < _OPERATIONS:
        result = simulate(seed, _REQUESTS)
        assert result.problem is None, f"{result.problem}\nreplay: {replay(result, _REQUESTS)}"
        done += result.operations
        seed += 1


def test_a_seed_replays_to_the_last_event() -> None:
    """In another process, whose sets have another order."""
    here = simulate(7, 100)
    command = [sys.executable, "-m", "simulation", "--seed", "7", "--requests", "100"]
    environ = {**os.environ, "PYTHONPATH": str(_TESTS), "PYTHONHASHSEED": "12345"}
    there = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, cwd=_TESTS.parent).stdout
    assert here.problem is None
    assert here.digest == simulate(7, 100).digest
    assert f"digest {here.digest}, " in there
    assert here.digest != simulate(8, 100).digest
