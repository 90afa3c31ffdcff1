"""Newline-delimited JSON out of bytes: sans-IO, for pieces cut anywhere.

Lines are split as bytes: no byte of a multi-byte UTF-8 letter is a line feed, so a letter cut in two is never touched. The
last line may lack its line feed. Servers that were taken for SSE ones and send `data: {…}` lines are understood too.
"""

from xrouter.errors import UpstreamProtocolError

_SSE_FIELDS = (b":", b"event:", b"id:", b"retry:")
_BOM = b"\xef\xbb\xbf"


class NdjsonSplitter:
    """The JSON texts of one stream. Time and memory are linear in the bytes, however small the pieces are."""

    def __init__(self, max_line_bytes: int = 1024 * 1024) -> None:
        self._max_line_bytes = max_line_bytes
        self._partial: list[bytes] = []  # the pieces of a line whose end has not come
        self._size = 0
        self._at_start = True

    def feed(self, data: bytes) -> list[bytes]:
        """The JSON texts that end in `data`. Raises UpstreamProtocolError for a line that is longer than the limit."""
        *lines, tail = data.split(b"\n")
        if lines and self._partial:
            lines[0] = b"".join((*self._partial, lines[0]))
            self._partial.clear()
            self._size = 0
        if tail:
            self._partial.append(tail)
            self._size += len(tail)
        if self._size > self._max_line_bytes or any(len(line) > self._max_line_bytes for line in lines):
            raise UpstreamProtocolError(
                "The upstream sent a line that is too long", detail=f"more than {self._max_line_bytes} bytes"
            )
        return [text for line in lines if (text := self._json(line))]

    def finish(self) -> list[bytes]:
        """The body has ended: the line that was under way, if there is one."""
        text = self._json(b"".join(self._partial))
        self._partial.clear()
        self._size = 0
        return [text] if text else []

    def _json(self, line: bytes) -> bytes:
        """The JSON text of `line`; empty for a blank line and for what frames SSE."""
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        line = line.strip()
        if line.startswith(b"{"):
            return line
        if line.startswith(b"data:"):
            line = line[5:].lstrip()
            return b"" if line == b"[DONE]" else line
        return b"" if line.startswith(_SSE_FIELDS) else line
