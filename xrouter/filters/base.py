"""What a filter is, and what it is given."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.auth.keyring import KeyRing
from xrouter.catalog import Catalog
from xrouter.config.settings import Settings
from xrouter.ledger.ledger import Ledger
from xrouter.limits.store import LimitStore
from xrouter.providers.upstreams import Upstream
from xrouter.routing.health import Health
from xrouter.world import World

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Filter(Protocol):
    """One step of the chain: a small pure ASGI class, understandable alone.

    What belongs to one request is local to `__call__`, never on `self`. Refuse by raising from `xrouter.errors`. Facts are
    read from and written to `context(scope)`. `__init__` does no I/O; the optional `async start()` and `async aclose()` do.
    """

    needs: ClassVar[frozenset[str] | set[str]]  # facts that a filter above must have provided
    provides: ClassVar[frozenset[str] | set[str]]  # facts that this one writes
    Config: ClassVar[type[Any]]  # a frozen dataclass; ValueError in __post_init__ is reported at the entry's line

    def __init__(self, app: ASGIApp, config: Any, services: Any) -> None: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """What a running gateway has, as filters and the frame are given it. One per loaded configuration."""

    settings: Settings
    world: World
    catalog: Catalog
    store: AsyncEngine
    keys: KeyRing
    ledger: Ledger
    upstreams: Mapping[str, Upstream]
    health: Health
    limits: LimitStore
