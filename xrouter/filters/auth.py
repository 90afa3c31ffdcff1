"""Who is calling: an API key, or the operator's admin token."""

from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import ClassVar, Final, Literal

from xrouter.context import Endpoint, Principal, RequestContext, context
from xrouter.errors import Forbidden, Unauthorized
from xrouter.filters.base import ASGIApp, Receive, Scope, Send, Services

_ADMIN: Final = Principal(key_id="admin", account="admin", name="admin token", management=True, operator=True)
_CHALLENGE: Final = (b"www-authenticate", b"Bearer")  # RFC 9110 section 15.5.2: a 401 says how to do better


class Auth:
    """Provide `principal`, or refuse.

    The key comes as `Authorization: Bearer` (OpenAI's and OpenRouter's SDKs) or `x-api-key`, once. Management keys manage:
    as at OpenRouter, they do not reach a model.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    provides: ClassVar[frozenset[str]] = frozenset({"principal"})
    covers: ClassVar[Literal["all"]] = "all"  # endpoints that reach no upstream too

    @dataclass(frozen=True, slots=True)
    class Config:
        """Nothing to choose: who may call is a matter of keys."""

    def __init__(self, app: ASGIApp, config: Config, services: Services) -> None:
        self.app = app
        self.keys = services.keys
        token = services.settings.admin.token.reveal()
        self.admin_digest = sha256(token.encode()).digest() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ctx = context(scope)
        principal = await self._principal(scope, ctx)
        _check_purpose(principal, ctx.endpoint)
        ctx.principal = principal
        await self.app(scope, receive, send)

    async def _principal(self, scope: Scope, ctx: RequestContext) -> Principal:
        try:
            presented = credential(scope["headers"])
            # Digests are compared, so the time tells nothing about the token, its length included.
            if self.admin_digest and compare_digest(sha256(presented).digest(), self.admin_digest):
                return _ADMIN
            return await self.keys.authenticate(presented.decode("latin-1"), ctx.client_ip)
        except Unauthorized:
            ctx.response_headers.append(_CHALLENGE)
            raise


def credential(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The one credential of a request. Two are refused: different parts of a system could each believe another one."""
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, given = value.partition(b" ")
            if scheme.lower() != b"bearer":
                raise Unauthorized(detail="an Authorization header of another scheme than Bearer")
        elif name == b"x-api-key":
            given = value
        else:
            continue
        if found is not None:
            raise Unauthorized(detail="more than one credential")
        found = given.strip(b" ")
    if not found:
        raise Unauthorized(detail="no credential")
    return found


def _check_purpose(principal: Principal, endpoint: Endpoint) -> None:
    if endpoint.inference and principal.management:
        raise Forbidden("Management keys and the admin token cannot be used for inference")
    if endpoint.management and not principal.management:
        raise Forbidden("This needs a management key")
