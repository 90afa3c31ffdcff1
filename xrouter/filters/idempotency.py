"""A request under an `Idempotency-Key`, around what `quota` does for every request: claimed first, and its answer kept.

Only whole answers are kept. A stream that has ended is told by its generation's id: its events would have to be kept as they
go out, and a client that reads one has mostly shown a part of it already.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from xrouter.context import RequestContext, context
from xrouter.errors import BadRequest, Conflict
from xrouter.filters.auth import credential
from xrouter.filters.base import Message, Scope, Send, Services
from xrouter.ledger.billing import Billing
from xrouter.ledger.idempotent import IdempotentRequests, KeptAnswer, unsealed
from xrouter.secret import Secret
from xrouter.store.idempotent_requests import Claim
from xrouter.wire import encode_json

LONGEST_NAME: Final = 255
LARGEST_KEPT: Final = 1_000_000  # bytes of an answer; a larger one is not kept
_OF_THE_ANSWER: Final = frozenset({b"x-xrouter-cost", b"x-xrouter-upstream", b"x-xrouter-downgraded"})
_REPLAYED: Final = (b"idempotent-replayed", b"true")
_NO_RETRY: Final = (b"x-should-retry", b"false")  # heeded by OpenAI's clients, which would send a 409 again


def idempotency_name(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """The request's Idempotency-Key. Raises BadRequest for one that is none, or for more than one."""
    given = [value for name, value in headers if name == b"idempotency-key"]
    if not given:
        return None
    name = given[0].decode("latin-1")
    if len(given) > 1 or not 0 < len(name) <= LONGEST_NAME or not all("!" <= character <= "~" for character in name):
        raise BadRequest("An Idempotency-Key is one header of 1 to 255 visible ASCII characters")
    return name


class Idempotency:
    """Of one `quota` filter."""

    def __init__(self, services: Services) -> None:
        self.requests = IdempotentRequests(services.store, services.ledger, services.world)

    async def run(
        self, name: str, scope: Scope, send: Send, billing: Billing, serve: Callable[[Send], Awaitable[None]]
    ) -> None:
        """Let `serve` run, billed by `billing`, unless that was done or is being done under this name."""
        ctx = context(scope)
        secret = Secret(credential(scope["headers"]).decode("latin-1"))
        claim = self.requests.claim(ctx.principal.key_id, name, _identity(ctx), ctx.generation_id)
        try:
            sealed = await self.requests.take(claim, billing.void)
        except Conflict as conflict:
            if conflict.retry_after_s is None:
                ctx.response_headers.append(_NO_RETRY)
            raise
        if sealed is not None:
            await _replay(ctx, await asyncio.to_thread(unsealed, sealed, secret, name), send)
            return
        try:
            await serve(send if ctx.call.stream else _Keeper(self.requests, claim, ctx, secret, name, send).send)
        finally:
            if billing.result == "free":
                await self.requests.give_up(claim)
            elif billing.result == "doubtful":
                self.requests.settle_doubt(claim, billing.void(claim.generation_id))


class _Keeper:
    """Keeps a whole answer before its last byte leaves; that it is charged is durable then."""

    def __init__(
        self, requests: IdempotentRequests, claim: Claim, ctx: RequestContext, secret: Secret, name: str, send: Send
    ) -> None:
        self._requests, self._claim, self._ctx, self._secret, self._name = requests, claim, ctx, secret, name
        self._pass_on = send
        self._headers: list[tuple[str, str]] = []
        self._pieces: list[bytes] = []
        self._size = 0
        self._whole = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._whole = message["status"] == 200
            headers = [
                *message.get("headers", ()),
                *(pair for pair in self._ctx.response_headers if pair[0] in _OF_THE_ANSWER),
            ]
            self._headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in headers
                if name != b"content-length"
            ]
        elif self._whole:
            await self._add(message.get("body", b""), last=not message.get("more_body", False))
        await self._pass_on(message)

    async def _add(self, piece: bytes, *, last: bool) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > LARGEST_KEPT:
            self._whole = False
            self._pieces.clear()
        elif last:
            answer = KeptAnswer(self._ctx.generation_id, self._headers, b"".join(self._pieces))
            await self._requests.keep(self._claim, answer, self._secret, self._name)


def _identity(ctx: RequestContext) -> bytes:
    """What makes another request another one: the endpoint and the body, byte for byte unless a filter has changed it."""
    call = ctx.call
    return ctx.endpoint.name.encode() + b"\n" + (encode_json(call.body) if call.raw is None else call.raw)


async def _replay(ctx: RequestContext, answer: KeptAnswer, send: Send) -> None:
    ctx.generation_id = answer.generation_id
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    headers += [(b"content-length", b"%d" % len(answer.body)), _REPLAYED]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
