"""Whether other processes of this host work on the same store: each holds a shared lock on one file as long as it lives.

Leases end by the wall clock. A process that starts cannot know whether that was set a moment ago, so that those of living
processes only seem to have ended (F20). Where it is alone, they are certainly of the dead.
"""

import fcntl
import os
from pathlib import Path
from typing import Final

_NAME: Final = "processes.lock"


class Presence:
    """`folder`: the same for all processes of one store."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._descriptor: int | None = None

    def enter(self) -> bool:
        """Be one of them until `leave`. Answers whether there is no other. Raises OSError."""
        assert self._descriptor is None
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        else:
            alone = True
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)  # the exclusive one was held for this moment only
        return alone

    def leave(self) -> None:
        """Leaving twice does nothing more. The system does it for a process that is killed."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
