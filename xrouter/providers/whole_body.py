"""A body that is read to its end before it is looked at, within a limit."""

from xrouter.errors import UpstreamProtocolError


class WholeBody:
    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        """Raises UpstreamProtocolError when the body is longer than the limit."""
        self._size += len(data)
        if self._size > self._max_bytes:
            raise UpstreamProtocolError(
                "The upstream's answer is too long", detail=f"more than {self._max_bytes} bytes"
            )
        self._pieces.append(data)

    def joined(self) -> bytes:
        return b"".join(self._pieces)
