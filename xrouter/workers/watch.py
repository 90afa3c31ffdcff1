"""Noticing that a file has changed, by looking at it from time to time."""

from pathlib import Path

Stamp = tuple[int, int, int]


class FileWatch:
    """`changed()` is asked about once a second. It says yes once a change has been at rest for one look, so that a file that
    is being written is not read half. A symbolic link is followed: Kubernetes swaps the link that a ConfigMap is behind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self._moving: Stamp | None = None

    def changed(self) -> bool:
        stamp = self._stamp()
        if stamp is None or stamp == self._seen:
            self._moving = None
            return False
        if stamp != self._moving:
            self._moving = stamp
            return False
        self._seen, self._moving = stamp, None
        return True

    def noted(self) -> None:
        """What the file now holds is being read for another reason."""
        self._seen, self._moving = self._stamp(), None

    def _stamp(self) -> Stamp | None:
        """None while there is no such file: a reader would find nothing."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
