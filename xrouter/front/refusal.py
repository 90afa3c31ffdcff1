"""An answer that the front gives in the app's place, in the API's error shape."""

import math
from dataclasses import dataclass

from xrouter.errors import XRouterError
from xrouter.front.exchange import status_line


class TooManyConnections(XRouterError):
    status, type, error_type = 503, "too_many_connections", "provider_unavailable"
    message = "The gateway has too many open connections; try again"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was answered to whom: for the operator's log and metrics."""

    request_id: str
    client: str  # address; empty on a Unix socket
    error: XRouterError

    def encoded(self, default_lines: bytes, head_only: bool) -> bytes:
        """The whole answer. It always announces that the connection closes."""
        body = self.error.encoded()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (b"x-request-id", self.request_id.encode("ascii")),
        ]
        if self.error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % math.ceil(self.error.retry_after_s)))
        lines = [b"%s: %s\r\n" % header for header in headers]
        return b"".join((status_line(self.error.status), default_lines, *lines, b"\r\n", b"" if head_only else body))
