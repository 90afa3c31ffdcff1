"""A filter that breaks in the way that the request's text names, for tests of what that does to the others."""

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from xrouter.context import context
from xrouter.filters.base import ASGIApp, Message, Receive, Scope, Send


class Broken:
    needs: ClassVar[frozenset[str]] = frozenset({"call"})
    provides: ClassVar[frozenset[str]] = frozenset()

    @dataclass(frozen=True, slots=True)
    class Config:
        """Nothing to choose."""

    def __init__(self, app: ASGIApp, config: Config, services: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def raising_send(message: Message) -> None:
            if message["type"] == "http.response.body" and message.get("xrouter.events"):
                raise ValueError("a secret detail of the filter's")
            await send(message)

        match context(scope).call.prompt()[0]:
            case "raises before":
                raise ValueError("a secret detail of the filter's")
            case "raises after":
                await self.app(scope, receive, send)
                raise ValueError("a secret detail of the filter's")
            case "raises in send":
                await self.app(scope, receive, raising_send)
            case "hangs before":
                await asyncio.Event().wait()
            case "answers nothing":
                return
            case "cancels itself":
                raise asyncio.CancelledError
            case "eats":
                try:
                    await self.app(scope, receive, send)
                except asyncio.CancelledError:
                    return
            case _:
                await self.app(scope, receive, send)
