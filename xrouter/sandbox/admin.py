"""/admin: what a test or an operator of the sandbox looks at and turns."""

import base64
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from xrouter.sandbox.endpoint import Incoming
from xrouter.sandbox.reply import Header, Refusal, Reply, json_reply
from xrouter.sandbox.scenario import ScenarioError, parse
from xrouter.sandbox.state import RecordedRequest, SandboxState
from xrouter.sandbox.yandex_iam import new_service_account_key

PREFIX = "/admin"

T = TypeVar("T")


class AdminDialect:
    name = "admin"

    def headers(self, state: SandboxState, request: dict[str, str]) -> tuple[Header, ...]:
        return ()

    def failure(self, status: int, message: str | None = None) -> Reply:
        return json_reply({"error": message or "not found"}, status)

    def failure_in_success(self) -> Reply:
        return self.failure(500)

    def failure_frame(self) -> bytes:
        return b""


ADMIN = AdminDialect()


class ScenarioOrder(Struct, forbid_unknown_fields=True):
    """`name`: a scenario in the grammar of `scenario.parse`."""

    name: str
    times: Annotated[int, Meta(ge=1)] = 1
    provider: str | None = None
    path: str | None = None


class ClockOrder(Struct, forbid_unknown_fields=True):
    advance_s: float


def _decoded(incoming: Incoming, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(incoming.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise Refusal(ADMIN.failure(400, str(problem))) from None


async def counters(incoming: Incoming) -> Reply:
    """GET /admin/state: counters, gauges and their peaks."""
    return json_reply(incoming.state.snapshot())


async def recorded_requests(incoming: Incoming) -> Reply:
    """GET /admin/requests: the newest requests, oldest first."""
    return json_reply([_shown(each) for each in incoming.state.requests])


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


async def scenario(incoming: Incoming) -> Reply:
    """POST /admin/scenario."""
    order = _decoded(incoming, ScenarioOrder)
    try:
        chosen = parse(order.name)
    except ScenarioError as problem:
        raise Refusal(ADMIN.failure(400, str(problem))) from None
    incoming.state.choose(chosen, times=order.times, provider=order.provider, path=order.path)
    return json_reply({"scenario": chosen, "times": order.times})


async def clock(incoming: Incoming) -> Reply:
    """POST /admin/clock."""
    incoming.state.advance(_decoded(incoming, ClockOrder).advance_s)
    return json_reply({"offset_s": incoming.state.offset_s, "now": incoming.state.now()})


async def reset(incoming: Incoming) -> Reply:
    """POST /admin/reset."""
    incoming.state.reset()
    return json_reply({"ok": True})


async def revoke_tokens(incoming: Incoming) -> Reply:
    """POST /admin/tokens/revoke: every issued token is unknown from now on."""
    incoming.state.revoke_tokens()
    return json_reply({"ok": True})


async def service_account_key(incoming: Incoming) -> Reply:
    """POST /admin/yandex/service-account-key: a fresh key file."""
    return json_reply(new_service_account_key(incoming.state))
