"""A command whose output nobody reads to its end, as in `xrouter keys list | head -1`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
upstreams:
  local: {provider: openai, base_url: "http://127.0.0.1:9/v1", api_key: "${LOCAL_API_KEY}"}
models:
  free/chat: {price: free, routes: [{upstream: local, model: some}]}
filters: [auth, body, routing]
"""


def run_unread(*arguments: str, unbuffered: str) -> tuple[int, str]:
    """Exit code and standard error. The reader has gone before the first byte: it does not depend on who is faster."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "xrouter.cli", *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "LOCAL_API_KEY": "k"},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(writer)
    return result.returncode, result.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_it_ends_quietly_as_sigpipe_would_end_it(tmp_path: Path, unbuffered: str) -> None:
    config = tmp_path / "xrouter.yaml"
    config.write_text(f"store: sqlite:///{tmp_path / 'keys.db'}\n{CONFIG}")
    assert run_unread("keys", "list", "-c", str(config), unbuffered=unbuffered) == (141, "")


def test_so_does_the_help() -> None:
    assert run_unread("--help", unbuffered="") == (141, "")
