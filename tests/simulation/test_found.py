"""What the simulation has found in the gateway, each as small as it can be seen."""

from dataclasses import replace
from unittest.mock import patch

import pytest
from simulation.sim_client import POOR, Plan
from simulation.sim_run import simulate

_PLAN = Plan("r0", POOR, "open", "free/chat", False, 5, "1 + 1 = ?", 0.01, None, 0.0, True)


@pytest.mark.parametrize("own_front", [True, False])
def test_who_leaves_before_the_answer_is_no_internal_error(own_front: bool) -> None:
    """Failed while `edge` took it for a filter that had not answered. A logged traceback is a failure here."""
    leaves = replace(_PLAN, own_front=own_front)
    with patch("simulation.sim_run.plan", lambda name, chance, leaving: replace(leaves, name=name)):
        for seed in range(2):
            assert simulate(seed, 20).problem is None
