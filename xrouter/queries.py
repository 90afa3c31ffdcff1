"""The answers that need no upstream: the innermost application of the query chain."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from sqlalchemy.exc import SQLAlchemyError

from xrouter.context import Principal, RequestContext, context
from xrouter.errors import BadRequest, StoreUnavailable
from xrouter.filters.auth import credential
from xrouter.filters.base import Receive, Scope, Send, Services
from xrouter.filters.body import read_body
from xrouter.secret import Secret
from xrouter.store.engine import reason
from xrouter.surfaces.base import encode
from xrouter.surfaces.openrouter_account import AccountShapes
from xrouter.surfaces.openrouter_generation import GenerationShapes
from xrouter.surfaces.openrouter_keys import KeyShapes, Once
from xrouter.surfaces.openrouter_models import ModelShapes
from xrouter.surfaces.openrouter_providers import ProviderStatus
from xrouter.surfaces.openrouter_tokens import MOST_BYTES, TokenShapes

_MOST_BYTES: Final = 64 * 1024
_LONGEST_IDEMPOTENCY_KEY: Final = 255
_RETRY_AFTER_S: Final = 1.0
_CREATED: Final = frozenset({"keys_create"})


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, as far as its answer needs it."""

    ctx: RequestContext
    scope: Scope
    receive: Receive

    @property
    def principal(self) -> Principal:
        return self.ctx.principal

    @property
    def query(self) -> Mapping[str, str]:
        """Raises BadRequest."""
        try:
            text = self.scope["query_string"].decode("ascii")
            return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=64))
        except ValueError:
            raise BadRequest("The query string cannot be read") from None

    @property
    def model(self) -> str:
        """The model that the path names: `author/slug`, or one segment."""
        args = self.ctx.path_args
        return args["model"] if "model" in args else f"{args['author']}/{args['slug']}"

    @property
    def once(self) -> Once | None:
        """The request's Idempotency-Key. Raises BadRequest for one that is none, or more than one."""
        given = [value for name, value in self.scope["headers"] if name == b"idempotency-key"]
        if not given:
            return None
        name = given[0].decode("latin-1")
        if (
            len(given) > 1
            or not 0 < len(name) <= _LONGEST_IDEMPOTENCY_KEY
            or not (name.isascii() and name.isprintable())
        ):
            raise BadRequest("An Idempotency-Key is one header of 1 to 255 printable ASCII characters")
        return Once(name, Secret(credential(self.scope["headers"]).decode("latin-1")))

    async def body(self, most_bytes: int = _MOST_BYTES) -> bytes:
        return await read_body(self.scope, self.receive, most_bytes)


Answer = Callable[[Ask], Awaitable[dict[str, Any]]]


class Queries:
    """One coroutine per endpoint that is no inference: from a request to a JSON object."""

    def __init__(self, services: Services) -> None:
        self._models_of = ModelShapes(services)
        self._provider_status = ProviderStatus(services)
        self._account = AccountShapes(services)
        self._generations = GenerationShapes(services)
        self._keys = KeyShapes(services)
        self._tokens = TokenShapes(services, self._models_of)
        self._answers: dict[str, Answer] = {
            "models": self._models,
            "models_user": self._models,
            "models_count": self._models_count,
            "embedding_models": self._embedding_models,
            "model": self._model,
            "model_flat": self._model,
            "model_slashed": self._model,
            "endpoints": self._endpoints,
            "zdr_endpoints": self._zdr_endpoints,
            "parameters": self._parameters,
            "parameters_flat": self._parameters,
            "providers": self._providers,
            "providers_status": self._providers_status,
            "generation": self._generation,
            "key": self._key,
            "credits": self._credits,
            "activity": self._activity,
            "keys": self._keys_page,
            "keys_create": self._keys_create,
            "keys_show": self._keys_show,
            "keys_update": self._keys_update,
            "keys_delete": self._keys_delete,
            "tokens_count": self._tokens_count,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = context(scope).endpoint.name
        try:
            body = encode(await self._answers[name](Ask(context(scope), scope, receive)))
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise StoreUnavailable(retry_after_s=_RETRY_AFTER_S, detail=f"{name}: {reason(error)}") from error
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 201 if name in _CREATED else 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _models(self, ask: Ask) -> dict[str, Any]:
        return self._models_of.models(ask.principal, ask.query)

    async def _models_count(self, ask: Ask) -> dict[str, Any]:
        return self._models_of.count(ask.principal, ask.query)

    async def _embedding_models(self, ask: Ask) -> dict[str, Any]:
        return self._models_of.embedding_models(ask.principal)

    async def _model(self, ask: Ask) -> dict[str, Any]:
        shape = self._models_of.model(ask.principal, ask.model)
        return {"data": shape} if ask.ctx.endpoint.name == "model" else shape

    async def _endpoints(self, ask: Ask) -> dict[str, Any]:
        return self._models_of.endpoints(ask.principal, ask.model)

    async def _zdr_endpoints(self, ask: Ask) -> dict[str, Any]:
        return self._models_of.zdr_endpoints(ask.principal)

    async def _parameters(self, ask: Ask) -> dict[str, Any]:
        return self._models_of.parameters(ask.principal, ask.model)

    async def _providers(self, ask: Ask) -> dict[str, Any]:
        return self._models_of.providers()

    async def _providers_status(self, ask: Ask) -> dict[str, Any]:
        return self._provider_status.status(ask.principal)

    async def _generation(self, ask: Ask) -> dict[str, Any]:
        return await self._generations.generation(ask.principal, ask.query.get("id"))

    async def _key(self, ask: Ask) -> dict[str, Any]:
        return await self._account.key(ask.principal)

    async def _credits(self, ask: Ask) -> dict[str, Any]:
        return await self._account.credits(ask.principal, ask.query)

    async def _activity(self, ask: Ask) -> dict[str, Any]:
        return await self._account.activity(ask.principal, ask.query)

    async def _keys_page(self, ask: Ask) -> dict[str, Any]:
        return await self._keys.page(ask.principal, ask.query)

    async def _keys_create(self, ask: Ask) -> dict[str, Any]:
        return await self._keys.create(ask.principal, await ask.body(), ask.once)

    async def _keys_show(self, ask: Ask) -> dict[str, Any]:
        return await self._keys.show(ask.principal, ask.ctx.path_args["hash"])

    async def _keys_update(self, ask: Ask) -> dict[str, Any]:
        return await self._keys.update(ask.principal, ask.ctx.path_args["hash"], await ask.body())

    async def _keys_delete(self, ask: Ask) -> dict[str, Any]:
        return await self._keys.delete(ask.principal, ask.ctx.path_args["hash"])

    async def _tokens_count(self, ask: Ask) -> dict[str, Any]:
        return await self._tokens.count(ask.ctx, await ask.body(MOST_BYTES))
