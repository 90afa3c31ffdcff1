"""What a request that is shed is answered, and what the operator is told.

The answer is written down beforehand but for the date and the request's id: the less shedding costs, the more is left for
the others. The log has a line when shedding begins and one when it has ended, however many requests are shed.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from xrouter.errors import XRouterError
from xrouter.front.exchange import status_line
from xrouter.front.start_queue import Reason
from xrouter.ids import time_ordered
from xrouter.world import World

_OVER_S: Final = 10.0  # without a shed request, and the overload has ended

log = logging.getLogger("xrouter.front")


class Overloaded(XRouterError):
    status, type, error_type = 503, "overloaded", "provider_overloaded"
    message = "The gateway has more requests than it can answer; try again"


class Overload:
    """See the module. `on_shed` is called for each request."""

    __slots__ = (
        "_began",
        "_body",
        "_default_lines",
        "_end",
        "_fields",
        "_head",
        "_number",
        "_on_shed",
        "_seen",
        "_world",
    )

    def __init__(self, world: World, retry_after_s: int, on_shed: Callable[[Reason], None]) -> None:
        self._world = world
        self._on_shed = on_shed
        self._body = Overloaded().encoded()
        self._end = b"\r\n\r\n" + self._body
        self._default_lines = b""  # those that are in
        self._head = b""  # up to the request's id
        self._fields = b"content-type: application/json\r\ncontent-length: %d\r\nretry-after: %d\r\nx-request-id: " % (
            len(self._body),
            retry_after_s,
        )
        self._number = 0  # requests shed since it began
        self._seen = 0  # of them, when last looked at
        self._began = 0.0

    def answer(self, reason: Reason, default_lines: bytes) -> tuple[bytes, bytes]:
        """Head, as `Exchange.answer` takes it, and body for one request that is shed."""
        return b"%b%b\r\n" % self._begin(reason, default_lines), self._body

    def whole_answer(self, reason: Reason, default_lines: bytes) -> bytes:
        """The same in one, for a connection that stays."""
        return b"".join((*self._begin(reason, default_lines), self._end))

    def _begin(self, reason: Reason, default_lines: bytes) -> tuple[bytes, bytes]:
        """Count it. An answer's head up to the request's id, and the id."""
        self._on_shed(reason)
        if not self._number:
            self._began = self._world.monotonic()
            log.warning("overload: more requests come than can be answered, and some are answered 503")
            asyncio.get_running_loop().call_later(_OVER_S, self._look)
        self._number += 1
        if default_lines is not self._default_lines:  # once a second
            self._default_lines = default_lines
            self._head = b"".join((status_line(Overloaded.status), default_lines, self._fields))
        return self._head, time_ordered(self._world).encode("ascii")

    def _look(self) -> None:
        """Tell that it has ended, if nothing has been shed since the last look."""
        if self._number > self._seen:
            self._seen = self._number
            asyncio.get_running_loop().call_later(_OVER_S, self._look)
            return
        seconds = self._world.monotonic() - self._began - _OVER_S
        log.warning("overload: over after %.0f s; %d requests were answered 503", seconds, self._number)
        self._number = self._seen = 0
