"""What the emulators' handlers are given and give back, and the ASGI app around one handler.

A handler is a coroutine from an `Incoming` to a `Reply`; a refusal is raised. Reading the body, counting, choosing the
scenario, faults and writing the answer are here and in `delivery`, so that a handler is about its provider alone.
"""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from xrouter.sandbox.delivery import Delivery
from xrouter.sandbox.reply import Header, Refusal, Reply, html_page
from xrouter.sandbox.scenario import HEADER, MARK, NO_SCENARIO, Scenario, ScenarioError, parse
from xrouter.sandbox.state import RecordedRequest, SandboxState
from xrouter.wire import decode_json


class Dialect(Protocol):
    """How one API words what went wrong."""

    name: str  # of the provider, in counters and in the admin API

    def headers(self, state: SandboxState, request: dict[str, str]) -> tuple[Header, ...]:
        """What every answer to a request with these headers carries."""

    def failure(self, status: int, message: str | None = None) -> Reply:
        """An error of that status; the provider's usual text unless told another."""

    def failure_in_success(self) -> Reply:
        """The status 200 with an error inside."""

    def failure_frame(self) -> bytes:
        """An error inside a stream."""


@dataclass(slots=True)
class Incoming:
    """A request, read whole. `stack` is closed once the answer has been written or given up."""

    state: SandboxState
    method: str
    path: str  # without the provider's prefix
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes
    scenario: Scenario
    stack: ExitStack = field(default_factory=ExitStack)

    def header(self, name: str) -> str:
        return self.headers.get(name, "")


Handler = Callable[[Incoming], Awaitable[Reply]]


class Endpoint:
    """The ASGI app of one handler."""

    def __init__(self, state: SandboxState, dialect: Dialect, prefix: str, path: str, handler: Handler) -> None:
        self._state = state
        self._dialect = dialect
        self._prefix = len(prefix)
        self._counted_as = path
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state, dialect = self._state, self._dialect
        try:
            body = await read_body(receive, state.config.max_body_bytes)
        except ClientLeft:
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"][self._prefix :]
        recorded = RecordedRequest(dialect.name, scope["method"], path, headers, body or b"", state.now())
        with ExitStack() as stack:
            stack.enter_context(state.request(recorded, self._counted_as))
            try:
                scenario = chosen_scenario(state, dialect.name, path, headers, recorded.body)
            except ScenarioError as problem:
                scenario, reply = NO_SCENARIO, dialect.failure(400, str(problem))
            else:
                if body is None:
                    reply = dialect.failure(413)
                else:
                    incoming = Incoming(
                        state,
                        scope["method"],
                        path,
                        scope.get("path_params", {}),
                        headers,
                        body,
                        scenario,
                        stack,
                    )
                    reply = await self._reply(incoming)
            reply = reply.with_headers(*dialect.headers(state, headers))
            state.statuses[f"{dialect.name} {reply.status}"] += 1
            delivery = Delivery(scope, receive, send, state, dialect.name, scenario)
            await delivery.write(reply, dialect.failure_frame)

    async def _reply(self, incoming: Incoming) -> Reply:
        scenario = incoming.scenario
        if scenario.status is not None:
            reply = html_page(scenario.status) if scenario.html else self._dialect.failure(scenario.status)
            if scenario.retry_after is not None:
                reply = reply.with_headers(("retry-after", f"{scenario.retry_after:g}"))
            return reply
        if scenario.error_200:
            return self._dialect.failure_in_success()
        try:
            return await self._handler(incoming)
        except Refusal as refusal:
            return refusal.reply


def chosen_scenario(state: SandboxState, provider: str, path: str, headers: dict[str, str], body: bytes) -> Scenario:
    """The scenario of a request: from its header, its newest message, the admin API's queue, or the configuration's."""
    text = headers.get(HEADER)
    if text is None and b"[[emu:" in body:
        newest = newest_text(body)
        marks = MARK.findall(newest)
        text = ",".join(marks) if marks else None
        key = f"{provider} {path} {newest}"
    else:
        key = f"{provider} {path} {text}"
    if text is not None:
        scenario = parse(text)
    else:
        scenario = state.queued(provider, path) or state.config.scenario
        key = f"{provider} {path}"
    return scenario if state.due(key, scenario.times) else NO_SCENARIO


def newest_text(body: bytes) -> str:
    """The newest message of a request of any of the APIs, or whatever text it is about; '' if there is none."""
    try:
        request = decode_json(body)
    except ValueError:
        return ""
    if not isinstance(request, dict):
        return ""
    messages = request.get("messages")
    if isinstance(messages, list) and messages:
        return _text_of(messages[-1])
    return _text_of(request.get("prompt") or request.get("input") or request.get("text"))


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(map(_text_of, value))
    if isinstance(value, dict):
        return _text_of(value.get("content") or value.get("text") or "")
    return ""


class ClientLeft(Exception):
    """The connection ended before the request did."""


async def read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None if it is longer than `limit`, which is read to its end all the same but not kept.

    Raises ClientLeft.
    """
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeft
        piece = message.get("body", b"")
        size += len(piece)
        if size <= limit:
            pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces) if size <= limit else None
