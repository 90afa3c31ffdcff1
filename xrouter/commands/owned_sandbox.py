"""A sandbox in a process of its own that never outlives the command that started it."""

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from msgspec import DecodeError, Struct, json

_START_S: Final = 60.0
_STOP_S: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


class SandboxFailed(Exception):
    """The sandbox did not start. What it has said about it is on stderr already."""


class _Announcement(Struct):
    """The part of `xrouter sandbox --json` that is needed here."""

    environ: dict[str, str]


@contextmanager
def owned_sandbox() -> Iterator[Mapping[str, str]]:
    """Run a sandbox until the block ends; yields the variables that point a gateway at it. Raises SandboxFailed.

    It has a process group of its own: Ctrl-C in a terminal goes to the whole foreground group, and would end the upstreams
    of requests that the gateway is still answering. And it dies with this
    process however that ends, on Linux even by SIGKILL.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "xrouter.cli", "sandbox", "--port", "0", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        process_group=0,
        preexec_fn=_die_with_parent() if sys.platform == "linux" else None,  # no thread is running yet
    )
    try:
        yield _announced(process)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _announced(process: subprocess.Popen[bytes]) -> Mapping[str, str]:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _START_S)
    if not readable:
        raise SandboxFailed(f"the sandbox did not start within {_START_S:.0f} s")
    try:
        return json.decode(process.stdout.readline(), type=_Announcement).environ
    except DecodeError:
        raise SandboxFailed("the sandbox did not start") from None


def _die_with_parent() -> Callable[[], None]:
    """What the child runs before it becomes the sandbox. The library is loaded here: after a fork that would not be safe."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel knew
            os._exit(1)

    return arrange
