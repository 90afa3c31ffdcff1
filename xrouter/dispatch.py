"""The innermost frame: send the call to its targets until one answers, and pass the answer on as it comes.

One request ends in exactly one way, written once as `ctx.outcome` before the last byte is sent, so that a filter further out
can settle before it lets that byte go: complete, client_abort, upstream_error or shutdown. Another target, or the same one
again, is tried only while the client has nothing: after the first byte an error is one event, then the end.
"""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import cast

from xrouter.context import Attempt, End, Outcome, RequestContext, Target, context
from xrouter.errors import InternalError, NoUpstreamAvailable, ShuttingDown, UpstreamError, XRouterError
from xrouter.events import Event, Finish, Usage
from xrouter.filters.base import Receive, Scope, Send, Services
from xrouter.keepalive import KeepAlive
from xrouter.leaving import ClientWatch
from xrouter.providers.base import Purpose, Translator
from xrouter.retries import retry_wait_s
from xrouter.surfaces.base import AnswerHead, Renderer
from xrouter.surfaces.openai import renderer
from xrouter.upstream.base import UpstreamRequest, UpstreamResponse, read_whole
from xrouter.upstream.caller import Caller

_ERROR_BODY_BYTES = 1024 * 1024
_TAIL_S = 1.0  # how long an upstream that has said everything may take to end its answer
_FOLD_EVENTS = 512  # delivered events kept before their tokens are counted: bounds memory on an endless stream


class Dispatch:
    """Needs `call` and `route`, provides `outcome`."""

    def __init__(self, services: Services) -> None:
        self.services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        relay = _Relay(self.services, context(scope), send)
        relay.watch = watch = ClientWatch(scope, receive, relay.drains)
        try:
            with watch:
                await relay.serve()
        except asyncio.CancelledError:
            await relay.cut_short()
            raise
        finally:
            relay.watch = None  # no cycle is left for the collector
        if watch.left:
            relay.conclude("client_abort")


class _Relay:
    """One request on its way through its targets."""

    def __init__(self, services: Services, ctx: RequestContext, send: Send) -> None:
        self.services = services
        self.world = services.world
        self.ctx = ctx
        self.send = send
        self.watch: ClientWatch | None = None
        self.answering = False  # an upstream has begun a good answer that has not ended
        self.attempts: list[Attempt] = []
        self.attempt_began: float | None = None  # monotonic; None once the attempt under way is noted
        self.target: Target | None = None  # the one under way, or the one that served
        self.translator: Translator | None = None
        self.renderer: Renderer | None = None
        self.keep_alive: KeepAlive | None = None
        self.started = False
        self.called = 0.0  # monotonic, of the attempt: when our own queue was behind it
        self.first_token_s: float | None = None
        self.finish: Finish | None = None
        self.delivered: list[Event] = []
        self.delivered_tokens = 0

    @property
    def left(self) -> bool:
        """Whether the client has left and the answer is read on only for its usage."""
        return self.watch is not None and self.watch.left

    def drains(self) -> bool:
        """Whether the upstream is read on if the client leaves now: it generates, and the policy wants its own count."""
        return self.answering and self.ctx.client_abort == "drain_and_bill"

    async def serve(self) -> None:
        """Raises what the last target answered, if none served and nothing was sent."""
        try:
            await self._try_targets()
        except XRouterError as error:
            self.conclude("client_abort" if self.left else "upstream_error", error)
            if not self.started:
                raise
            assert self.renderer is not None
            await self._send_last(self.renderer.failed(error))
        except Exception:
            self.conclude("upstream_error", InternalError())
            raise  # `edge` answers it
        finally:
            if self.keep_alive is not None:
                self.keep_alive.stop()

    async def cut_short(self) -> None:
        """The gateway is stopping: a stream gets its last event, as for any other break."""
        error = ShuttingDown()
        self.conclude("shutdown", error)
        if self.started and self.renderer is not None and self.renderer.streams:
            await self._send_last(self.renderer.failed(error))

    async def _try_targets(self) -> None:
        route = self.ctx.route
        targets = list(route.targets)
        failure: XRouterError = NoUpstreamAvailable()
        for round_ in range(route.retries + 1):
            again: list[Target] = []
            wait_s = 0.0
            for target in targets:
                try:
                    await self._attempt(target)
                except XRouterError as error:
                    failure = error  # the last one is what the client is told
                    if self.started or self.left:
                        raise
                    if isinstance(error, UpstreamError):
                        if error.retry:
                            again.append(target)
                            wait_s = max(wait_s, error.retry_after_s or 0.0)
                    elif not self._other_model_follows(target):
                        raise
                else:
                    return
            targets = again
            if not targets or round_ == route.retries:
                break
            wait_s = retry_wait_s(round_, wait_s, self.world)
            if not self._time_left(targets[0], wait_s):
                break
            await self.world.sleep(wait_s)
        raise failure

    def _other_model_follows(self, failed: Target) -> bool:
        """OpenRouter tries `models[]` in order on any error, a refused request included."""
        targets = self.ctx.route.targets
        return any(target.public_model != failed.public_model for target in targets[targets.index(failed) + 1 :])

    def _time_left(self, target: Target, wait_s: float) -> bool:
        total_s = self.services.upstreams[target.upstream].settings.timeouts.total_s
        return self.world.monotonic() - self.ctx.started + wait_s < total_s

    async def _attempt(self, target: Target) -> None:
        health = self.services.health
        self.attempt_began = began = self.world.monotonic()
        upstream_s = self.ctx.upstream_s
        self.target = target
        status, error_type, kind = 0, None, None
        place = (target.upstream, target.model)
        health.begin(place)
        told = False
        try:
            await self._exchange(target)
            status = 200
            usage = self.ctx.outcome.usage
            health.succeeded(
                place,
                first_token_s=None
                if self.first_token_s is None
                else self.ctx.started + self.first_token_s - self.called,
                duration_s=self.world.monotonic() - self.called,
                output_tokens=None if usage is None else usage.output_tokens,
            )
            told = True
        except UpstreamError as error:
            status, error_type, kind = error.upstream_status or 0, error.type, error.kind
            if not (error.upstream_status is None and error.status == 429):  # else our own queue was too long
                health.failed(place, error.kind, error.retry_after_s)
                told = True
            raise
        except XRouterError as error:
            status, error_type = error.status, error.type
            raise
        except asyncio.CancelledError:
            error_type = "cancelled"
            raise
        finally:
            if not told:
                health.abandoned(place)
            if not self.started:
                self.ctx.upstream_s = upstream_s + self.world.monotonic() - began
            self._note(status, error_type, kind)

    def _note(self, status: int, error_type: str | None = None, kind: str | None = None) -> None:
        """Write down how the attempt under way went, once: one that serves is known to before its connection is free."""
        began, target = self.attempt_began, self.target
        if began is None or target is None:
            return
        self.attempt_began = None
        duration_s = self.world.monotonic() - began
        self.attempts.append(
            Attempt(target.upstream, target.model, status, error_type, kind, began - self.ctx.started, duration_s)
        )

    async def _exchange(self, target: Target) -> None:
        """One call at one target, to the end of its answer. A place of the upstream's gate is held all the time."""
        upstream = self.services.upstreams[target.upstream]
        ctx = self.ctx
        translator = upstream.provider.translator(ctx.call, target, self._purpose(target))
        self.translator = translator
        self.renderer = renderer(ctx.call, self._head(target))
        self._forget_the_attempt_before()
        if self.renderer.streams and self.keep_alive is None:
            self.keep_alive = KeepAlive(self._comment)
        began = self.world.monotonic()
        caller = upstream.credentials.choose(target.model, conversation(ctx)).caller
        async with caller.gate.place(ctx.principal.account):
            self.called = self.world.monotonic()
            request = await self._prepared(translator, caller)
            response = await caller.open(request)
            try:
                if not 200 <= response.status < 300:
                    raise translator.error(await read_whole(response, _ERROR_BODY_BYTES))
                translator.started(response.status, response.headers)
                self.answering = True
                async for data in response:
                    if events := translator.feed(data):
                        await self._deliver(events, began)
                    if translator.complete:
                        break
                await self._deliver(translator.finish(), began)
                await self._complete()
                if translator.complete:
                    # The upstream frees its own place only when its answer ends, so ours is kept until then.
                    await _read_tail(response)
                response.finish()
            finally:
                self.answering = False
                await response.aclose()

    def _forget_the_attempt_before(self) -> None:
        """What a failed attempt had generated was never sent, or there would not be another one."""
        self.finish = None
        self.first_token_s = None
        self.delivered.clear()
        self.delivered_tokens = 0

    async def _prepared(self, translator: Translator, caller: Caller) -> UpstreamRequest:
        """The call itself, after the requests that have to go before it."""
        exchange = translator.exchange()
        try:
            request = next(exchange)
            while True:
                request = exchange.send(await caller.fetch(request))
        except StopIteration as done:
            return cast(UpstreamRequest, done.value)

    def _purpose(self, target: Target) -> Purpose:
        ctx = self.ctx
        entry = self.services.catalog.entries()[target.public_model]
        return Purpose(ctx.generation_id, ctx.request_id, conversation(ctx), entry.settings)

    def _head(self, target: Target) -> AnswerHead:
        """The model is told by the name that the client used for it; another one of its `models`, by its own."""
        ctx = self.ctx
        created, name = int(ctx.started_at), ctx.route.requested
        entry = self.services.catalog.resolve(name)
        if entry is None or entry.id != target.public_model:
            name = target.public_model
        return AnswerHead(ctx.generation_id, name, created, target.upstream, ctx.openrouter)

    async def _deliver(self, events: Sequence[Event], began: float) -> None:
        """Pass events on. A whole answer is only collected; a stream's first event is the first byte to the client."""
        if not events:
            return
        for event in events:
            if type(event) is Finish:
                self.finish = event
        if self.first_token_s is None:
            now = self.world.monotonic()
            self.first_token_s = now - self.ctx.started
            if not self.started:
                self.ctx.upstream_s += now - began
        self.delivered.extend(events)
        if len(self.delivered) > _FOLD_EVENTS:
            self._fold()
        assert self.renderer is not None
        data = self.renderer.feed(events)
        if data and self.renderer.streams:
            await self._start()
            await self._send(data, events)

    async def _complete(self) -> None:
        """The answer is whole: write the outcome, then send what is left of it."""
        assert self.renderer is not None
        ctx = self.ctx
        self._note(200)
        self.conclude("client_abort" if self.left else "complete", whole=True)
        usage = ctx.outcome.usage
        cost = ctx.quote.cost(usage, self.target) if usage is not None and ctx.provided("quote") else None
        last = self.renderer.end(usage, cost)
        if not self.renderer.streams:
            if cost is not None:
                ctx.response_headers.append((b"x-xrouter-cost", b"%d.%09d" % divmod(cost, 10**9)))
            ctx.response_headers.append((b"content-length", b"%d" % len(last)))
        await self._start()
        await self._send_last(last)

    async def _start(self) -> None:
        """The response's head, once: from here on the client has something and nothing is tried again."""
        if self.started:
            return
        self.started = True
        assert self.target is not None
        assert self.renderer is not None
        ctx = self.ctx
        ctx.response_headers.append((b"x-xrouter-upstream", self.target.upstream.encode()))
        if self.translator is not None and self.translator.downgrades:
            ctx.response_headers.append((b"x-xrouter-downgraded", ", ".join(self.translator.downgrades).encode()))
        if self.renderer.streams:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            headers.append((b"x-accel-buffering", b"no"))
        else:
            headers = [(b"content-type", b"application/json")]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send(self, data: bytes, events: Sequence[Event]) -> None:
        keep_alive = self.keep_alive
        if keep_alive is not None:
            await keep_alive.pause()
        await self.send({"type": "http.response.body", "body": data, "more_body": True, "xrouter.events": events})
        if keep_alive is not None:
            keep_alive.resume()

    async def _send_last(self, data: bytes) -> None:
        if self.keep_alive is not None:
            await self.keep_alive.pause()
            self.keep_alive.stop()
        await self.send({"type": "http.response.body", "body": data, "more_body": False, "xrouter.events": ()})

    async def _comment(self, data: bytes) -> None:
        """A sign of life while the upstream says nothing."""
        await self._start()
        await self.send({"type": "http.response.body", "body": data, "more_body": True, "xrouter.events": ()})

    def conclude(self, end: End, error: XRouterError | None = None, *, whole: bool = False) -> None:
        """Write the outcome, unless it is written: the first end is the end.

        Unless the answer is `whole`, what counts as generated is what the client was sent.
        """
        ctx = self.ctx
        if ctx.provided("outcome"):
            return
        translator = self.translator
        generated = self.started and bool(self.delivered or self.delivered_tokens)
        usage = translator.usage if translator is not None and (generated or whole) else None
        if usage is None and (generated or whole):
            usage = self._counted()
        ctx.outcome = Outcome(
            end=end,
            usage=usage,
            target=self.target,
            attempts=tuple(self.attempts),
            finish_reason=self.finish.reason if self.finish else None,
            native_finish_reason=self.finish.native if self.finish else None,
            upstream_id=translator.upstream_id if translator is not None else None,
            upstream_model=translator.upstream_model if translator is not None else None,
            first_token_s=self.first_token_s,
            error=error,
        )

    def _counted(self) -> Usage | None:
        """What the provider has not reported, counted from what was delivered."""
        if not self.ctx.provided("estimate"):
            return None
        self._fold()
        return Usage(self.ctx.estimate.input_tokens, self.delivered_tokens, source="counted")

    def _fold(self) -> None:
        if self.ctx.provided("estimate"):
            self.delivered_tokens += self.ctx.estimate.count("".join(event.text for event in self.delivered))
        self.delivered.clear()


async def _read_tail(response: UpstreamResponse) -> None:
    """Read what is left of an answer that is complete, a second at most."""
    try:
        async with asyncio.timeout(_TAIL_S):
            async for _ in response:
                pass
    except (UpstreamError, TimeoutError):
        return  # the answer was complete: how its connection ends is nobody's loss


def conversation(ctx: RequestContext) -> str:
    """A name for the conversation: the client's own, or else what its first message says; never shared between keys.

    A provider's prompt cache goes by it (gigachat.md section 9), and the first message is what stays the same from turn to
    turn.
    """
    request = ctx.call.request
    name = ctx.session_id or request.session_id or request.user
    if not name:
        texts = ctx.call.prompt()
        name = sha256(texts[0].encode("utf-8", "surrogatepass")).hexdigest() if texts else ""
    return f"{ctx.principal.key_id}:{name}"
