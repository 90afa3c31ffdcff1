"""No stage of a request becomes dear unnoticed.

What a stage adds is measured against what the front costs, both in one run, in memory, and the fastest of many short rounds
counts: so neither a slow machine nor a busy one decides. The bounds are four times of what bench/stages.py shows, or more:
they catch a parse too many of something large, a hash that is meant to be slow, or work that grows with the configuration,
not a few percent.
"""

import re
import subprocess
import sys
from pathlib import Path

STAGES = Path(__file__).parent.parent / "bench" / "stages.py"
MOST = {  # in times of what the front costs by itself
    "edge, metrics, log": 4,
    "auth": 2,
    "body": 3,
    "routing": 2,
    "token_count": 3,
    "dispatch, provider, engine": 15,
}


def test_what_each_stage_adds_keeps_in_proportion() -> None:
    """Seen to fail with a body that was decoded two hundred times."""
    run = subprocess.run(
        [sys.executable, str(STAGES), "--rounds", "20", "--requests", "64"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    added = {
        name.strip(): float(micros)
        for name, micros in re.findall(r"^(.{32}) +[\d.]+ +(-?[\d.]+)$", run.stdout, re.MULTILINE)
    }
    for name, most in MOST.items():
        assert added[name] < most * added["front"], run.stdout
