"""/admin: what a test or an operator of the sandbox looks at and turns."""

import base64
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from xrouter.sandbox.scenario import ScenarioError, parse
from xrouter.sandbox.state import RecordedRequest, SandboxState
from xrouter.sandbox.yandex_iam import new_service_account_key

PREFIX = "/admin"

T = TypeVar("T")


class ScenarioOrder(Struct, forbid_unknown_fields=True):
    """`name`: a scenario in the grammar of `scenario.parse`."""

    name: str
    times: Annotated[int, Meta(ge=1)] = 1
    provider: str | None = None
    path: str | None = None


class ClockOrder(Struct, forbid_unknown_fields=True):
    advance_s: float


def routes(state: SandboxState) -> list[Route]:
    """The control plane: not counted, not recorded, and out of reach of scenarios."""

    async def counters(request: Request) -> Response:
        """Counters, gauges and their peaks."""
        return _json(state.snapshot())

    async def recorded_requests(request: Request) -> Response:
        """The newest requests, oldest first."""
        return _json([_shown(each) for each in state.requests])

    async def choose_scenario(request: Request) -> Response:
        order = await _decoded(request, ScenarioOrder)
        try:
            chosen = parse(order.name)
        except ScenarioError as problem:
            raise HTTPException(400, str(problem)) from None
        state.choose(chosen, times=order.times, provider=order.provider, path=order.path)
        return _json({"scenario": chosen, "times": order.times})

    async def advance_clock(request: Request) -> Response:
        state.advance((await _decoded(request, ClockOrder)).advance_s)
        return _json({"offset_s": state.offset_s, "now": state.now()})

    async def reset(request: Request) -> Response:
        state.reset()
        return _json({"ok": True})

    async def revoke_tokens(request: Request) -> Response:
        """Every issued token is unknown from now on."""
        state.revoke_tokens()
        return _json({"ok": True})

    async def service_account_key(request: Request) -> Response:
        """A fresh key file."""
        return _json(new_service_account_key(state))

    return [
        Route(f"{PREFIX}/state", counters, methods=["GET"]),
        Route(f"{PREFIX}/requests", recorded_requests, methods=["GET"]),
        Route(f"{PREFIX}/scenario", choose_scenario, methods=["POST"]),
        Route(f"{PREFIX}/clock", advance_clock, methods=["POST"]),
        Route(f"{PREFIX}/reset", reset, methods=["POST"]),
        Route(f"{PREFIX}/tokens/revoke", revoke_tokens, methods=["POST"]),
        Route(f"{PREFIX}/yandex/service-account-key", service_account_key, methods=["POST"]),
    ]


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _decoded(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise HTTPException(400, str(problem)) from None


def _shown(request: RecordedRequest) -> dict[str, object]:
    try:
        body = request.body.decode()
    except UnicodeDecodeError:
        body = "base64:" + base64.b64encode(request.body).decode()
    return {
        "provider": request.provider,
        "method": request.method,
        "path": request.path,
        "headers": request.headers,
        "body": body,
        "at": request.at,
    }
