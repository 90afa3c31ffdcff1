"""bench/fleet.py runs, and finds nothing wrong with two workers that are reloaded and replaced under a little load."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_reloads_and_restarts_are_noticed_by_no_client(tmp_path: Path) -> None:
    run = subprocess.run(
        [
            sys.executable, str(ROOT / "bench" / "fleet.py"), "--workers", "2", "--on", "sqlite", "--what", "reload,restart",
            "--streams", "5", "--per-s", "10", "--pause-ms", "20", "--seconds", "1",
        ],
        cwd=tmp_path, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all 2 workers replaced" in run.stdout
