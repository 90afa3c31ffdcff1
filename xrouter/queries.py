"""The answers that need no upstream: the innermost application of the query chain."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from xrouter.context import RequestContext, context
from xrouter.errors import BadRequest
from xrouter.filters.base import Receive, Scope, Send, Services
from xrouter.surfaces.base import encode
from xrouter.surfaces.openrouter_models import ModelShapes

Answer = Callable[[RequestContext, Mapping[str, str]], Awaitable[dict[str, Any]]]


class Queries:
    """One coroutine per endpoint that is no inference: from the request's facts and query to a JSON object."""

    def __init__(self, services: Services) -> None:
        self._shapes = ModelShapes(services)
        self._answers: dict[str, Answer] = {
            "models": self._models,
            "models_user": self._models,
            "models_count": self._models_count,
            "embedding_models": self._embedding_models,
            "model": self._model,
            "model_flat": self._model,
            "model_slashed": self._model,
            "endpoints": self._endpoints,
            "parameters": self._parameters,
            "parameters_flat": self._parameters,
            "providers": self._providers,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ctx = context(scope)
        body = encode(await self._answers[ctx.endpoint.name](ctx, _query(scope)))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _models(self, ctx: RequestContext, query: Mapping[str, str]) -> dict[str, Any]:
        return self._shapes.models(ctx.principal, query)

    async def _models_count(self, ctx: RequestContext, query: Mapping[str, str]) -> dict[str, Any]:
        return self._shapes.count(ctx.principal, query)

    async def _embedding_models(self, ctx: RequestContext, query: Mapping[str, str]) -> dict[str, Any]:
        return self._shapes.embedding_models(ctx.principal)

    async def _model(self, ctx: RequestContext, query: Mapping[str, str]) -> dict[str, Any]:
        shape = self._shapes.model(ctx.principal, _name(ctx))
        return {"data": shape} if ctx.endpoint.name == "model" else shape

    async def _endpoints(self, ctx: RequestContext, query: Mapping[str, str]) -> dict[str, Any]:
        return self._shapes.endpoints(ctx.principal, _name(ctx))

    async def _parameters(self, ctx: RequestContext, query: Mapping[str, str]) -> dict[str, Any]:
        return self._shapes.parameters(ctx.principal, _name(ctx))

    async def _providers(self, ctx: RequestContext, query: Mapping[str, str]) -> dict[str, Any]:
        return self._shapes.providers()


def _name(ctx: RequestContext) -> str:
    """The model that the path names: `author/slug`, or one segment."""
    args = ctx.path_args
    return args["model"] if "model" in args else f"{args['author']}/{args['slug']}"


def _query(scope: Scope) -> dict[str, str]:
    try:
        return dict(parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True, max_num_fields=64))
    except ValueError:
        raise BadRequest("The query string cannot be read") from None
