"""Log lines, one JSON object each, written by a thread so that a blocked pipe never blocks a request (F39).

Lines are collected for a moment and handed over in one piece. When the reader is so slow that the backlog is full, lines
are dropped and counted, and the next line that is written says how many.
"""

import logging
import queue
import sys
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

from xrouter.wire import encode_json

_BACKLOG_LINES: Final = 20_000


class LogWriter:
    """Writes JSON lines to `stream`; safe from any thread."""

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self._stream = stream or sys.stderr.buffer
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.dropped = 0
        self._reported = 0
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, Any]) -> None:
        if self._lines.qsize() >= _BACKLOG_LINES:
            self.dropped += 1
            return
        if self.dropped > self._reported:
            record = {**record, "log_lines_dropped": self.dropped - self._reported}
            self._reported = self.dropped
        self._lines.put(encode_json(record) + b"\n")

    def close(self, wait_s: float = 2.0) -> None:
        """Write what is left, unless nobody reads it."""
        self._lines.put(None)
        self._thread.join(wait_s)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            pieces = [line]
            end = False
            while not self._lines.empty():
                more = self._lines.get()
                if more is None:
                    end = True
                    break
                pieces.append(more)
            try:
                self._stream.write(b"".join(pieces))
                self._stream.flush()
            except (OSError, ValueError):
                self.dropped += len(pieces)  # the reader is gone; serving goes on
            if end:
                return


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


def log_through(writer: LogWriter, level: int = logging.INFO) -> None:
    """Send what the program and its libraries log through `writer`."""
    root = logging.getLogger()
    root.handlers[:] = [JsonHandler(writer)]
    root.setLevel(logging.WARNING)
    logging.getLogger("xrouter").setLevel(level)
