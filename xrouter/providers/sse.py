"""Server-sent events out of bytes: sans-IO, for pieces cut anywhere.

The grammar is the WHATWG HTML standard's, section 9.2.6 "Interpreting an event stream". Two liberties: `id` and `retry`
are ignored, since nobody reconnects to a generation; and `finish` gives an event that lacks its closing blank line, since
some servers leave it out after their last one.
"""

from collections.abc import Sequence
from typing import NamedTuple

from xrouter.errors import UpstreamProtocolError

DONE = b"[DONE]"
"""What OpenAI-like streams send as the data of their last event."""

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One event. `name` is empty where the stream gave none; `data` is its lines, joined by a line feed."""

    data: bytes
    name: str = ""


class SseDecoder:
    """The events of one stream. Time and memory are linear in the bytes, however small the pieces are."""

    def __init__(self, max_event_bytes: int = 1024 * 1024) -> None:
        self._max_event_bytes = max_event_bytes
        self._partial: list[bytes] = []  # the pieces of a line whose end has not come
        self._size = 0  # bytes held for the event under way
        self._data: list[bytes] = []
        self._name = ""
        self._after_cr = False  # the last piece ended in CR: a LF that opens the next one belongs to it
        self._at_start = True

    @property
    def between_events(self) -> bool:
        """Whether the next byte begins an event that is not the stream's first."""
        return not (self._partial or self._data or self._after_cr or self._at_start or self._name)

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """The events that end in `data`. Raises UpstreamProtocolError for one that is longer than the limit."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        tail = lines.pop()
        if lines and self._partial:
            self._partial.append(lines[0])
            lines[0] = b"".join(self._partial)
            self._size -= len(lines[0]) - len(self._partial[-1])
            self._partial.clear()
        events: list[ServerSentEvent] = []
        for line in lines:
            if line:
                self._take(line)
            elif event := self._dispatch():
                events.append(event)
        if tail:
            self._partial.append(tail)
            self._grow(len(tail))
        return events

    def finish(self) -> Sequence[ServerSentEvent]:
        """The body has ended: the event that was under way, if it has data."""
        if self._partial:
            line = b"".join(self._partial)
            self._size -= len(line)
            self._partial.clear()
            self._take(line)
        event = self._dispatch()
        return (event,) if event else ()

    def _take(self, line: bytes) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b" ", 5) else line[5:]
        elif line.startswith(b"event:"):
            self._name = line[6:].removeprefix(b" ").decode("utf-8", "replace")
            return
        elif line == b"data":
            value = b""
        else:
            return  # a comment, `id`, `retry`, or a field of tomorrow's
        self._grow(len(value))
        self._data.append(value)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._max_event_bytes:
            raise UpstreamProtocolError(
                "The upstream sent an event that is too long", detail=f"more than {self._max_event_bytes} bytes"
            )

    def _dispatch(self) -> ServerSentEvent | None:
        self._at_start = False
        if not self._data:
            self._name = ""
            self._size = 0
            return None
        event = ServerSentEvent(self._data[0] if len(self._data) == 1 else b"\n".join(self._data), self._name)
        self._data = []
        self._name = ""
        self._size = 0
        return event
