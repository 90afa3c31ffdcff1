"""Log lines, one JSON object each, written by a thread so that a blocked pipe never blocks a request (F39).

Lines are collected for a moment and handed over in one piece. When the reader is so slow that the backlog is full, lines
are dropped and counted, and a line of its own says how many.
"""

import collections
import fcntl
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

from msgspec import Struct

from xrouter.wire import encode_json

_BACKLOG_LINES: Final = 20_000
_COLLECT_S: Final = 0.02


class LogWriter:
    """Writes JSON lines to `stream`; safe from any thread.

    The thread sleeps between two pieces, so a busy gateway wakes it fifty times a second and not with every line: a wake-up
    costs the event loop the interpreter's lock, 10 % of its requests when it came with each (bench/README.md).
    """

    def __init__(self, stream: BinaryIO | None = None, *, turns: BinaryIO | None = None) -> None:
        """`turns`: a file that all who write to the same stream lock in turn, since a pipe may tear lines of several
        processes apart (pipe(7), PIPE_BUF). The kernel gives the lock back when a process dies.
        """
        self._stream = stream or sys.stderr.buffer
        self._turns = turns
        self._lines: collections.deque[bytes] = collections.deque()
        self._waiting = threading.Event()
        self._closing = threading.Event()
        self.dropped = 0
        self._reported = 0
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, Any] | Struct) -> None:
        """Queue one object as a line. Costs no system call."""
        if len(self._lines) >= _BACKLOG_LINES:
            self.dropped += 1
            return
        if self.dropped > self._reported:
            lost = {"level": "warning", "event": "log_lines_dropped", "lines": self.dropped - self._reported}
            self._lines.append(encode_json(lost) + b"\n")
            self._reported = self.dropped
        self._lines.append(encode_json(record) + b"\n")
        if not self._waiting.is_set():
            self._waiting.set()

    def close(self, wait_s: float = 2.0) -> None:
        """Write what is left, unless nobody reads it."""
        self._closing.set()
        self._waiting.set()
        self._thread.join(wait_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._waiting.wait()
            self._closing.wait(_COLLECT_S)
            self._waiting.clear()  # before the lines are taken: a line that comes meanwhile is the next piece's
            self._write_out()
        self._write_out()  # what came while the last piece was written

    def _write_out(self) -> None:
        pieces = [self._lines.popleft() for _ in range(len(self._lines))]
        try:
            with self._turn():
                self._stream.write(b"".join(pieces))
                self._stream.flush()
        except (OSError, ValueError):
            self.dropped += len(pieces)  # the reader is gone; serving goes on

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._turns is None:
            yield
            return
        fcntl.lockf(self._turns, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._turns, fcntl.LOCK_UN)


class JsonHandler(logging.Handler):
    """The standard library's log records, as the same kind of lines: user text can never start a second line."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        line: dict[str, Any] = {
            "ts": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = logging.Formatter().formatException(record.exc_info)
        self._writer.write(line)


class SupervisorLines(logging.Formatter):
    """The supervisor's few records as the same kind of lines. It may have no thread, so it writes them itself."""

    def format(self, record: logging.LogRecord) -> str:
        return encode_json(
            {
                "ts": record.created,
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
            }
        ).decode()


def log_through(writer: LogWriter, level: int = logging.INFO) -> None:
    """Send what the program and its libraries log through `writer`."""
    root = logging.getLogger()
    root.handlers[:] = [JsonHandler(writer)]
    root.setLevel(logging.WARNING)
    logging.getLogger("xrouter").setLevel(level)
