"""A filter that watches a stream: how soon after the request the first word comes, as a log line and a metric-like total.

It reads the parsed events that ride on each message, so nothing is parsed a second time and no byte is touched.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from xrouter.context import context
from xrouter.filters.base import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("xrouter.plugins.first_word")


class FirstWord:
    """Log answers whose first word took longer than `slow_s`; `seen` and `slow` count them."""

    needs: ClassVar[frozenset[str]] = frozenset({"call"})
    provides: ClassVar[frozenset[str]] = frozenset()

    @dataclass(frozen=True, slots=True)
    class Config:
        slow_s: float = 2.0

    def __init__(self, app: ASGIApp, config: Config, services: Any) -> None:
        self.app, self.slow_s = app, config.slow_s
        self.seen = 0
        self.slow = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ctx = context(scope)
        began = time.monotonic()
        waiting = ctx.call.stream

        async def watch(message: Message) -> None:
            nonlocal waiting
            if waiting and any(event.text for event in message.get("xrouter.events", ())):
                waiting = False
                self._note(ctx.request_id, time.monotonic() - began)
            await send(message)

        await self.app(scope, receive, watch)

    def _note(self, request_id: str, seconds: float) -> None:
        self.seen += 1
        if seconds > self.slow_s:
            self.slow += 1
            log.warning("request %s waited %.1f s for its first word", request_id, seconds)
