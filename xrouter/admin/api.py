"""`/admin/api`: the operator's own API, for the one who holds `admin.token`.

It is control plane: Starlette, no chain, no metrics of requests. Errors have the shape of all others.
"""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from hmac import compare_digest
from math import ceil
from typing import Any, Final, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from xrouter.admin import credits
from xrouter.admin.body import read_body
from xrouter.config.settings import Settings
from xrouter.errors import (
    BadRequest,
    InternalError,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
    Unprocessable,
    XRouterError,
)
from xrouter.explain.explainer import Question
from xrouter.explain.explanation import Explanation
from xrouter.surfaces.base import encode
from xrouter.workers.fleet import FleetLink


class Operated(credits.Purse, Protocol):
    """The gateway, as far as its operator's API goes."""

    settings: Settings
    fleet: FleetLink | None

    async def explain(self, question: Question) -> Explanation: ...


Handler = Callable[[Operated, Request], Awaitable[Any]]

_JSON: Final = "application/json"
_questions: Final = msgspec.json.Decoder(Question)


def create_admin(gateway: Operated) -> Starlette:
    """The ASGI application below `/admin/api`."""

    def guarded(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            _check_token(request, gateway.settings.admin.token.reveal())
            return _response(await handler(gateway, request))

        return answer

    return Starlette(
        routes=[
            Route("/admin/api/reload", guarded(_reload), methods=["POST"]),
            Route("/admin/api/explain", guarded(_explain), methods=["POST"]),
            Route("/admin/api/workers", guarded(_workers), methods=["GET"]),
            Route("/admin/api/credits", guarded(credits.show), methods=["GET"]),
            Route("/admin/api/credits/grant", guarded(credits.grant), methods=["POST"]),
            Route("/admin/api/credits/refund", guarded(credits.refund), methods=["POST"]),
            Route("/admin/api/credits/adjust", guarded(credits.adjust), methods=["POST"]),
        ],
        exception_handlers={XRouterError: _failed, HTTPException: _unrouted, Exception: _failed},
    )


async def _reload(gateway: Operated, request: Request) -> dict[str, Any]:
    """Read the configuration again, in every worker or in none. 422 with each problem if it is refused."""
    problem = await _fleet(gateway).reload()
    if problem is not None:
        raise Unprocessable(
            "The configuration is refused, the running one stays", metadata={"problems": problem.splitlines()}
        )
    return {"ok": True}


async def _explain(gateway: Operated, request: Request) -> Explanation:
    """What would be done with a request (`Question`), spending nothing. 400 for what is no question."""
    return await gateway.explain(_question(await read_body(request)))


def _question(body: bytes) -> Question:
    try:
        return _questions.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"This is no question to explain: {error}") from error


async def _workers(gateway: Operated, request: Request) -> dict[str, Any]:
    return {"workers": (await _fleet(gateway).view()).workers}


def _fleet(gateway: Operated) -> FleetLink:
    if gateway.fleet is None:
        raise Unprocessable("This process is no `xrouter serve`: it has no configuration file to read again")
    return gateway.fleet


def _check_token(request: Request, token: str) -> None:
    """Raises Unauthorized. Digests are compared, so the time tells nothing about the token, its length included."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    presented = given.strip() if scheme.lower() == "bearer" else ""
    if not token or not compare_digest(sha256(presented.encode()).digest(), sha256(token.encode()).digest()):
        raise Unauthorized("The admin API needs the admin token: Authorization: Bearer …")


def _response(body: Any, status: int = 200) -> Response:
    return Response(encode(body), status, media_type=_JSON, headers={"cache-control": "no-store"})


def _failed(request: Request, error: Exception) -> Response:
    told = error if isinstance(error, XRouterError) else InternalError()
    answer = _response(told.body(), told.status)
    if told.status == 401:
        answer.headers["www-authenticate"] = "Bearer"  # RFC 9110 section 15.5.2: a 401 says how to do better
    if told.retry_after_s is not None:
        answer.headers["retry-after"] = str(max(1, ceil(told.retry_after_s)))
    return answer


def _unrouted(request: Request, error: Exception) -> Response:
    wrong_method = isinstance(error, HTTPException) and error.status_code == 405
    return _failed(request, MethodNotAllowed() if wrong_method else NotFound())
