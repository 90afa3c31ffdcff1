"""`xrouter serve` as a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xrouter.wire import decode_json

WAIT_S = 60  # how long anything may take on a busy machine before it counts as not happening


@dataclass
class Serving:
    process: "subprocess.Popen[bytes]"
    url: str
    config: Path
    log_file: Path

    def log(self) -> list[dict[str, Any]]:
        """Its log so far. Every line must be a whole JSON object."""
        return [decode_json(line) for line in self.log_file.read_bytes().splitlines()]

    def messages(self) -> list[str]:
        return [record["message"] for record in self.log() if "message" in record]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


def xrouter(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "xrouter.cli", *arguments]


def command(environ: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """One command of the CLI, run to its end."""
    return subprocess.run(
        xrouter(*arguments), env={**os.environ, **environ}, capture_output=True, text=True, timeout=WAIT_S
    )


@contextmanager
def serving(
    config: Path, environ: Mapping[str, str], *arguments: str, start: Callable[..., Any] = subprocess.Popen
) -> Iterator[Serving]:
    """The gateway from when it serves until the block ends. `start` runs the command, as Popen does."""
    log_file = config.with_suffix(f".{time.monotonic_ns()}.log")
    with log_file.open("wb") as log:
        process = start(
            xrouter("serve", "-c", str(config), "--json", *arguments),
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        line = process.stdout.readline()
        assert line, f"the gateway does not start: {log_file.read_text()}"
        yield Serving(process, decode_json(line)["url"], config, log_file)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def until(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` says, once it is true."""
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
    return found
