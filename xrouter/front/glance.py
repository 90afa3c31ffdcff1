"""What is looked at of a request that is to be shed, where it has come whole in one read: whose it is.

Where it ends is decided by llhttp, as for any other. It is only not asked for more: no head is checked, no field is kept.
One parser serves all connections, so whatever it would have to remember is left to the connection's own.
"""

import re
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

_STARTS: Final = (b"POST /v1/", b"POST /api/v1/")
_CREDENTIAL: Final = re.compile(rb"\r\n(?:authorization|x-api-key):[ \t]*([^\r]*)", re.IGNORECASE)


class Glance:
    """See the module. `credential`: of the request that was looked at, unchecked, as `Exchange.sender` takes it."""

    __slots__ = ("_begun", "_completed", "_parser", "_stays", "credential")

    def __init__(self) -> None:
        self.credential: bytes | None = None
        self._parser = HttpRequestParser(self)
        self._begun = self._completed = 0  # requests
        self._stays = False  # the connection

    def is_whole(self, data: bytes) -> bool:
        """Whether this is one request of the API, nothing less or more, and its connection may stay open."""
        if not data.startswith(_STARTS):
            return False
        self._begun = self._completed = 0
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._stays = False
        if self._stays and self._begun == self._completed == 1:
            found = _CREDENTIAL.search(data, 0, data.find(b"\r\n\r\n"))
            self.credential = found and found[1].rstrip(b" \t")
            return True
        self._parser = HttpRequestParser(self)  # the old one waits for more, or takes nothing any more
        return False

    # The parser's calls.

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._stays = parser.should_keep_alive() and parser.get_http_version() == "1.1"

    def on_message_complete(self) -> None:
        self._completed += 1
