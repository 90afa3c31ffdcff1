"""The outermost frame: ids, the answer to every error, the headers of every response, one log line, the metrics.

Nothing further in answers an error: filters and dispatch raise, and this turns it into the documented shape. Once a
response has begun, dispatch has ended the stream properly; what is raised after that can only be logged.
"""

import asyncio
import ipaddress
import logging
import re
from collections.abc import Awaitable, Sequence
from typing import Any, Final

from xrouter import ids
from xrouter.chain import Chain
from xrouter.context import ContractError, Endpoint, RequestContext
from xrouter.endpoints import Router
from xrouter.errors import InternalError, MethodNotAllowed, ShuttingDown, XRouterError
from xrouter.filters.base import Message, Receive, Scope, Send
from xrouter.filters.body import ClientLeft
from xrouter.leaving import GRACE_S, LastResort
from xrouter.observe.logs import LogWriter
from xrouter.observe.metrics import Metrics
from xrouter.observe.request_log import request_record
from xrouter.surfaces.base import AnswerHead
from xrouter.surfaces.openai_chat import CHUNK
from xrouter.surfaces.sse_out import error_event
from xrouter.world import World

log = logging.getLogger("xrouter.edge")

_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # what a client's own request id may look like to be kept
_UNKNOWN: Final = Endpoint("unknown", "", inference=False)


class Edge:
    """Around one chain."""

    def __init__(
        self, chain: Chain, world: World, log_writer: LogWriter, metrics: Metrics, trusted_proxies: Sequence[str]
    ) -> None:
        self.chain = chain
        self.world = world
        self.log_writer = log_writer
        self.metrics = metrics
        self.router = Router()
        self.trusted = tuple(ipaddress.ip_network(network, strict=False) for network in trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ctx = self._context(scope)
        scope["xrouter"] = ctx
        response = _Response(ctx, self.world, send)
        last_resort = LastResort(scope, ctx)
        error: XRouterError | None = None
        left = False
        self.metrics.in_flight += 1
        try:
            ctx.endpoint, ctx.path_args, ctx.openrouter = self.router.find(scope["path"], scope["method"])
            chain = self.chain.inference if ctx.endpoint.inference else self.chain.query
            await chain(scope, receive, response.send)
            if not response.status:
                raise ContractError("no filter has answered")
        except MethodNotAllowed as raised:
            ctx.response_headers.append((b"allow", ", ".join(self.router.methods(scope["path"])).encode()))
            error = raised
        except XRouterError as raised:
            error = raised
        except ClientLeft:
            left = True
        except asyncio.CancelledError:
            if last_resort.ended:
                log.error("request %s had not ended %g s after its client had left", ctx.request_id, GRACE_S)
                left = True
            elif _cancelled_from_outside():
                error = ShuttingDown()
                raise
            else:
                log.exception("request %s failed", ctx.request_id)
                error = InternalError()
        except Exception:
            # Whatever a filter does, its request gets an answer and the others go on (F38).
            log.exception("request %s failed", ctx.request_id)
            error = InternalError()
        finally:
            last_resort.close()
            self.metrics.in_flight -= 1
            try:
                if error is not None:
                    await response.fail(error)
            finally:
                self._finished(ctx, response, error, left)
                _let_go(ctx, error)

    def _context(self, scope: Scope) -> RequestContext:
        request_id, session_id = "", None
        forwarded: bytes | None = None
        for name, value in scope["headers"]:
            if name[:2] != b"x-":
                continue
            if name == b"x-request-id":
                request_id = value.decode("latin-1")
            elif name == b"x-session-id":
                session_id = value.decode("latin-1")[:256]
            elif name == b"x-forwarded-for":
                forwarded = value if forwarded is None else forwarded + b"," + value  # one list (RFC 9110 section 5.3)
        world = self.world
        return RequestContext(
            request_id=request_id if request_id and _ID.fullmatch(request_id) else ids.uuid4(world),
            generation_id=ids.generation_id(world),
            endpoint=_UNKNOWN,
            started=world.monotonic(),
            started_at=world.now(),
            client_ip=self._client_ip(scope, forwarded),
            session_id=session_id,
        )

    def _client_ip(self, scope: Scope, forwarded: bytes | None) -> str:
        """The address of the client: the last one that a trusted proxy did not add itself."""
        client = scope.get("client")
        address: str = client[0] if client else ""
        if forwarded is None or not self.trusted:
            return address
        for hop in reversed(forwarded.decode("latin-1").split(",")):
            told = _address(hop.strip())
            if told is None or not self._is_trusted(address):
                break
            address = told
        return address

    def _is_trusted(self, address: str) -> bool:
        parsed = ipaddress.ip_address(address) if address else None
        return parsed is not None and any(parsed in network for network in self.trusted)

    def _finished(self, ctx: RequestContext, response: "_Response", error: XRouterError | None, left: bool) -> None:
        outcome = ctx.outcome if "outcome" in ctx else None
        if outcome is not None and outcome.end == "client_abort":
            left = True
        status = 499 if left else response.status or 500
        seconds = self.world.monotonic() - ctx.started
        error = error or (outcome.error if outcome else None)
        self.metrics.finished(ctx, status, seconds, response.overhead_s, error)
        self.log_writer.write(request_record(ctx, status, seconds, response.overhead_s, error))


def _address(text: str) -> str | None:
    """An IP address in its usual form; None for anything else that a header may hold."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _let_go(ctx: RequestContext, error: XRouterError | None) -> None:
    """Break the cycles that a request is part of: what filters have stashed refers to it, and so does a traceback.

    They would be left to the collector, which looks at everything that is alive and stops the loop for that.
    """
    ctx.stash.clear()
    for one in (error, ctx.outcome.error if "outcome" in ctx else None):
        if one is not None:
            one.__traceback__ = one.__context__ = one.__cause__ = None


def _cancelled_from_outside() -> bool:
    """Whether the gateway stops this request, and not a filter that let a cancellation of its own escape (F38)."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _last_event(ctx: RequestContext, error: XRouterError) -> bytes:
    """The end of a stream that dispatch could not end itself, since what failed stands between it and the client."""
    requested = ctx.route.requested if ctx.provided("route") else ""
    head = AnswerHead(ctx.generation_id, requested, int(ctx.started_at), "")
    return error_event(head, CHUNK, error, {"delta": {"content": ""}})


class _Response:
    """What has been sent of one response."""

    __slots__ = ("_ctx", "_ended", "_send", "_streams", "_world", "overhead_s", "status")

    def __init__(self, ctx: RequestContext, world: World, send: Send) -> None:
        self._ctx = ctx
        self._world = world
        self._send = send
        self.status = 0
        self.overhead_s: float | None = None
        self._ended = False
        self._streams = False

    def send(self, message: Message) -> Awaitable[None]:
        """The chain's `send`: every response leaves with the ids and what filters have added."""
        if message["type"] == "http.response.start":
            return self._start(message)
        if not message.get("more_body", False):
            self._ended = True
        return self._send(message)

    async def _start(self, message: Message) -> None:
        self._begin(message.setdefault("headers", []))
        await self._send(message)
        self.status = message["status"]  # only now: a head that waited for a slow client may have been cancelled

    async def fail(self, error: XRouterError) -> None:
        """Answer `error`; if a response has begun, end it, with an event where it is a stream."""
        if self._ended:
            return
        if self.status:
            last = _last_event(self._ctx, error) if self._streams else b""
            await self.send({"type": "http.response.body", "body": last, "more_body": False})
            return
        body = error.encoded()
        headers: list[tuple[bytes, bytes]] = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        if error.retry_after_s is not None or error.status == 429:  # an upstream at its limit may not say for how long
            headers.append((b"retry-after", b"%d" % max(1, -(-(error.retry_after_s or 1) // 1))))
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    def _begin(self, headers: Any) -> None:
        ctx = self._ctx
        for name, value in headers:
            if name == b"content-type":
                self._streams = value.startswith(b"text/event")
        self.overhead_s = max(0.0, self._world.monotonic() - ctx.started - ctx.upstream_s)
        headers.append((b"x-request-id", ctx.request_id.encode()))
        if ctx.endpoint.inference:
            headers.append((b"x-generation-id", ctx.generation_id.encode()))
            headers.append((b"x-xrouter-overhead-ms", b"%.3f" % (self.overhead_s * 1000)))
        headers.extend(ctx.response_headers)
