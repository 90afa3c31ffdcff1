"""The tests' own PostgreSQL leaves nothing behind."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.postgresql_only
PATIENCE_S = 60.0
PROGRAM = """
import signal, sys
sys.path.insert(0, sys.argv[1])
from kit.postgres_server import running_postgres
with running_postgres() as server:
    print(server.folder, server._process.pid, flush=True)
    server.freeze()
    signal.pause()
"""


def test_a_killed_run_of_tests_leaves_neither_a_server_nor_its_folder(tmp_path: Path) -> None:
    """Frozen, as a test may have left it. Fails without the watch beside the server."""
    tests = str(Path(__file__).parents[1])
    with subprocess.Popen([sys.executable, "-c", PROGRAM, tests], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder, pid = process.stdout.readline().split()
        assert Path(folder).exists()
        process.kill()
    deadline = time.monotonic() + PATIENCE_S
    while Path(folder).exists() or folder in command_line(pid):
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.05)


def command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
