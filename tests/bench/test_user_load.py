"""bench/locustfile.py against a real gateway and the sandbox: users of every kind, and no error that nobody expects."""

import os
import re
import subprocess
import sys
from pathlib import Path

from kit.gateway import CHAIN, running_gateway
from kit.walk import MODELS, UPSTREAMS

from xrouter.sandbox.running import running_sandbox

ROOT = Path(__file__).parents[2]


def test_users_of_every_kind_meet_no_unexpected_error(tmp_path: Path) -> None:
    """A user counts a stream that ends without `[DONE]`, and any answer that it did not ask for, as failed."""
    with (
        running_sandbox(pers_concurrency=50, generations=50) as sandbox,
        running_gateway(CHAIN + UPSTREAMS + MODELS, sandbox.environ, tmp_path) as gateway,
    ):
        run = subprocess.run(
            [
                sys.executable, "-m", "locust", "-f", str(ROOT / "bench" / "locustfile.py"), "--headless",
                "--host", gateway.url,
                "--users", "8", "--spawn-rate", "8", "--run-time", "4s", "--stop-timeout", "20", "--only-summary",
            ],
            cwd=tmp_path,
            env={**os.environ, "XROUTER_KEYS": gateway.key, "XROUTER_MODELS": "gigachat/max,yandexgpt/pro,local/large"},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    for kind in ("whole", "streamed", "left in the middle"):
        assert re.search(rf"^POST +{kind} +[1-9]", run.stderr + run.stdout, re.MULTILINE), run.stdout + run.stderr
