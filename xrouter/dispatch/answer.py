"""What the client of one request is sent: the head once, an answer's events as they come, comments, one end."""

from collections.abc import Awaitable, Sequence

from xrouter.context import Cost, RequestContext, Target
from xrouter.dispatch.upstream_call import UpstreamCall
from xrouter.errors import XRouterError
from xrouter.events import Event, Finish, TextRun, Usage, Verbatim
from xrouter.filters.base import Send, Services
from xrouter.keepalive import KeepAlive
from xrouter.surfaces.base import AnswerHead, Renderer
from xrouter.surfaces.openai import renderer

_FOLD_EVENTS = 512  # delivered events kept before their tokens are counted: bounds memory on an endless stream
_FOLD_BYTES = 64  # of a run of texts that weigh as much as an event


class Answer:
    """Once it has `started`, nothing may be tried again. Once it has `begun`, the client has the head."""

    __slots__ = (
        "_catalog", "_ctx", "_delivered", "_delivered_tokens", "_keep_alive", "_pass_on", "_renderer", "_weight", "_world",
        "asked_at", "begun", "call", "ended", "finish", "first_token_s", "pieces", "started", "streams",
    )  # fmt: skip

    def __init__(self, services: Services, ctx: RequestContext, send: Send) -> None:
        self._catalog = services.catalog
        self._world = services.world
        self._ctx = ctx
        self._pass_on = send
        self.streams = streams = ctx.call.stream
        self._keep_alive = KeepAlive(self._comment) if streams else None
        self._renderer: Renderer | None = None
        self.started = False
        self.begun = False  # a head that waits for its settlement, or for a slow client, may never leave
        self.ended = False  # the last byte has left
        self.asked_at = 0.0  # monotonic: since when the client has waited for the attempt under way
        self.call: UpstreamCall | None = None  # the one whose answer this is
        self.first_token_s: float | None = None  # since the request's start
        self.finish: Finish | None = None
        self.pieces = 0  # events that came
        self._delivered: list[Event] = []
        self._weight = 0  # of what is in it
        self._delivered_tokens = 0

    def begin(self, call: UpstreamCall | None) -> None:
        """From now on this is the answer of `call`. What one before it had generated was never sent."""
        self.call = call
        self._renderer = None
        self.finish = None
        self.first_token_s = None
        self.pieces = 0
        self._delivered.clear()
        self._weight = 0
        self._delivered_tokens = 0

    def take(self, events: Sequence[Event]) -> bytes:
        """The client's bytes of more events, to be sent at once. None yet of an answer that is sent whole."""
        call = self.call
        assert call is not None
        for event in events:
            if isinstance(event, Finish):
                self.finish = event
            elif isinstance(event, TextRun):
                self._weight += len(event.joined) // _FOLD_BYTES
        if self.first_token_s is None:
            self._note_first(call)
        self.pieces += len(events)
        self._delivered.extend(events)
        self._weight += len(events)
        if self._weight > _FOLD_EVENTS:
            self._fold()
        if self._renderer is None:
            self._renderer = renderer(self._ctx.call, self._head(call.target))
        data = self._renderer.feed(events)
        return data if self.streams else b""

    async def send(self, data: bytes, events: Sequence[Event]) -> None:
        """Pass a stream's bytes on: the first ones are the first byte to the client."""
        keep_alive = self._keep_alive
        if keep_alive is not None and (comment := keep_alive.pause()) is not None:
            await comment
        first = not self.started
        if first:
            await self._start()
        await self._pass_on({"type": "http.response.body", "body": data, "more_body": True, "xrouter.events": events})
        if first:  # the upstream's first chunks were parsed to learn its name; the stream may be silent for long now
            for event in events:
                if type(event) is Verbatim:
                    event.forget()
        if keep_alive is not None:
            keep_alive.resume()

    def complete(self, usage: Usage | None, cost: Cost | None) -> Awaitable[None]:
        """Send what is left of an answer that is whole. The outcome is written before this.

        It hands the coroutine on instead of awaiting it, and so does who calls it: two frames less in every `send`.
        """
        if self._renderer is None:
            assert self.call is not None
            self._renderer = renderer(self._ctx.call, self._head(self.call.target))
        last = self._renderer.end(usage, cost)
        if not self.streams:
            headers = self._ctx.response_headers
            if cost is not None:
                headers.append((b"x-xrouter-cost", b"%d.%09d" % divmod(cost.nano, 10**9)))
            headers.append((b"content-length", b"%d" % len(last)))
        return self._send_last(last)

    async def fail(self, error: XRouterError, target: Target) -> None:
        """End an answer that has begun with its last event, unless it has ended. `target`: the one that was tried last."""
        if self.ended:
            return
        if self._renderer is None:
            self._renderer = renderer(self._ctx.call, self._head(target))
        await self._send_last(self._renderer.failed(error))

    def close(self) -> None:
        """No comments any more."""
        keep_alive, self._keep_alive = self._keep_alive, None  # they refer to each other
        if keep_alive is not None:
            keep_alive.close()

    def usage(self, *, whole: bool) -> Usage | None:
        """What was generated: of an answer that is not `whole`, what the client was sent. None: nothing."""
        if not whole and not (self.begun and (self._delivered or self._delivered_tokens)):
            return None
        usage = self.call.translator.usage if self.call is not None else None
        return usage or self._counted()

    def _note_first(self, call: UpstreamCall) -> None:
        now = self._world.monotonic()
        ctx = self._ctx
        self.first_token_s = now - ctx.started
        call.first_event_s = now - call.called
        if not self.started:
            ctx.upstream_s += now - self.asked_at

    def _head(self, target: Target) -> AnswerHead:
        """The model is told by the name that the client used for it; another one of its `models`, by its own."""
        ctx = self._ctx
        name = ctx.route.requested
        entry = self._catalog.resolve(name)
        if entry is None or entry.id != target.public_model:
            name = target.public_model
        return AnswerHead(ctx.generation_id, name, int(ctx.started_at), target.upstream, ctx.openrouter)

    async def _start(self) -> None:
        """The response's head, for who has seen that it has not `started`: a comment that is sending it was waited for."""
        self.started = True
        ctx, call = self._ctx, self.call
        if call is not None:  # unknown while two calls race and a comment is due
            ctx.response_headers.append((b"x-xrouter-upstream", call.target.upstream.encode()))
            if call.translator.downgrades:
                ctx.response_headers.append((b"x-xrouter-downgraded", ", ".join(call.translator.downgrades).encode()))
        if self.streams:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            headers.append((b"x-accel-buffering", b"no"))
        else:
            headers = [(b"content-type", b"application/json")]
        await self._pass_on({"type": "http.response.start", "status": 200, "headers": headers})
        self.begun = True

    async def _send_last(self, data: bytes) -> None:
        keep_alive = self._keep_alive
        if keep_alive is not None:
            if (comment := keep_alive.pause()) is not None:
                await comment
            keep_alive.stop()
        if not self.started:
            await self._start()
        await self._pass_on({"type": "http.response.body", "body": data, "more_body": False, "xrouter.events": ()})
        self.ended = True

    async def _comment(self, data: bytes) -> None:
        """A sign of life while the upstream says nothing."""
        if not self.started:
            await self._start()
        await self._pass_on({"type": "http.response.body", "body": data, "more_body": True, "xrouter.events": ()})

    def _counted(self) -> Usage | None:
        """What the provider has not reported, counted from what was delivered."""
        if not self._ctx.provided("estimate"):
            return None
        self._fold()
        return Usage(self._ctx.estimate.input_tokens, self._delivered_tokens, source="counted")

    def _fold(self) -> None:
        if self._ctx.provided("estimate"):
            self._delivered_tokens += self._ctx.estimate.count("".join([event.text for event in self._delivered]))
        self._delivered.clear()
        self._weight = 0
