"""A filter that changes requests: phone numbers are masked before anything leaves for a provider."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from xrouter.context import context
from xrouter.filters.base import ASGIApp, Receive, Scope, Send

# Russian numbers as people write them: +7 or 8, then ten digits with spaces, hyphens or brackets between.
_PHONE = re.compile(r"(?<![\d+])(?:\+7|8)[\s\-]?\(?\d{3}\)?[\s\-]?\d{3}[\s\-]?\d{2}[\s\-]?\d{2}(?!\d)")


class MaskPhone:
    """Put `mask` in the place of every phone number in messages, prompts and inputs."""

    needs: ClassVar[frozenset[str]] = frozenset({"call"})
    provides: ClassVar[frozenset[str]] = frozenset()

    @dataclass(frozen=True, slots=True)
    class Config:
        mask: str = "[phone]"

    def __init__(self, app: ASGIApp, config: Config, services: Any) -> None:
        self.app, self.mask = app, config.mask

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ctx = context(scope)
        if any(_PHONE.search(text) for text in ctx.call.prompt()):
            ctx.amend_call(ctx.call.map_text(lambda text: _PHONE.sub(self.mask, text)))
        await self.app(scope, receive, send)
