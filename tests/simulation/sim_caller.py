"""Says who is calling, as `auth` does, without a store of keys."""

from dataclasses import dataclass
from typing import Any, ClassVar

from xrouter.context import Principal, context
from xrouter.filters.base import ASGIApp, Receive, Scope, Send


class SimCaller:
    """Provide `principal`: the account and the key that the header `authorization` names, with a blank between."""

    needs: ClassVar[frozenset[str]] = frozenset()
    provides: ClassVar[frozenset[str]] = frozenset({"principal"})

    @dataclass(frozen=True, slots=True)
    class Config:
        """Nothing to choose."""

    def __init__(self, app: ASGIApp, config: Config, services: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        (value,) = (value for name, value in scope["headers"] if name == b"authorization")
        account, key = value.decode().split()
        context(scope).principal = Principal(key, account)
        await self.app(scope, receive, send)
