"""One request on its way through its targets.

Another target, or the same one again, is tried only while the client has nothing: after the first byte an error is one
event, then the end. A first try costs nothing of an upstream's retry budget, everything beyond it does (`_may_try`).
"""

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

from xrouter.context import Attempt, AttemptReason, End, Outcome, RequestContext, Target
from xrouter.dispatch.answer import Answer
from xrouter.dispatch.conversation import conversation
from xrouter.dispatch.hedge import first_of
from xrouter.dispatch.upstream_call import UpstreamCall
from xrouter.errors import InternalError, NoUpstreamAvailable, ShuttingDown, UpstreamError, XRouterError
from xrouter.events import Event
from xrouter.filters.base import Send, Services
from xrouter.leaving import ClientWatch
from xrouter.providers.base import Purpose
from xrouter.providers.upstreams import Upstream
from xrouter.retries import retry_wait_s

_Begun = tuple[UpstreamCall, Sequence[Event]]
"""A call that has answered, and its first events; none of an answer that is whole and empty."""


class Relay:
    __slots__ = (
        "_again", "_conversation", "_wait_s", "answer", "attempts", "ctx", "health", "services", "target", "watch", "world",
    )  # fmt: skip

    def __init__(self, services: Services, ctx: RequestContext, send: Send) -> None:
        self.services = services
        self.world = services.world
        self.health = services.health
        self.ctx = ctx
        self.answer = Answer(services, ctx, send)
        self.watch: ClientWatch | None = None
        self.attempts: list[Attempt] = []
        self.target: Target | None = None  # tried last, or the one that served
        self._conversation = ""
        self._again: list[Target] = []  # targets of this round that may be tried once more
        self._wait_s = 0.0  # the longest that one of them asked for

    @property
    def left(self) -> bool:
        """Whether the client has left and the answer is read on only for its usage."""
        return self.watch is not None and self.watch.left

    def drains(self) -> bool:
        """Whether the upstream is read on if the client leaves now: it generates, and the policy wants its own count."""
        call = self.answer.call
        return call is not None and call.answering and self.ctx.client_abort == "drain_and_bill"

    async def serve(self) -> None:
        """Raises what the last target answered, if none served and nothing was sent."""
        answer = self.answer
        try:
            await self._try_targets()
        except XRouterError as error:
            self.conclude("client_abort" if self.left else "upstream_error", error)
            if not answer.begun:
                raise
            assert self.target is not None
            await answer.fail(error, self.target)
        except Exception:
            self.conclude("upstream_error", InternalError())
            raise  # `edge` answers it
        finally:
            answer.close()

    async def cut_short(self) -> None:
        """The gateway is stopping: a stream gets its last event, as for any other break."""
        error = ShuttingDown()
        self.conclude("shutdown", error)
        if self.answer.begun and self.answer.streams and self.target is not None:
            await self.answer.fail(error, self.target)

    def conclude(self, end: End, error: XRouterError | None = None, *, whole: bool = False) -> None:
        """Write the outcome, unless it is written: the first end is the end.

        Unless the answer is `whole`, what counts as generated is what the client was sent.
        """
        ctx, answer = self.ctx, self.answer
        if ctx.provided("outcome"):
            return
        translator = answer.call.translator if answer.call is not None else None
        finish = answer.finish
        ctx.outcome = Outcome(
            end=end,
            usage=answer.usage(whole=whole),
            target=self.target,
            attempts=tuple(self.attempts),
            finish_reason=finish.reason if finish else None,
            native_finish_reason=finish.native if finish else None,
            upstream_id=translator.upstream_id if translator is not None else None,
            upstream_model=translator.upstream_model if translator is not None else None,
            first_token_s=answer.first_token_s,
            error=error,
            pieces=answer.pieces,
        )

    async def _try_targets(self) -> None:
        route = self.ctx.route
        targets: Sequence[Target] = route.targets
        failure: XRouterError | None = None
        for round_ in range(route.retries + 1):
            reason: AttemptReason = "retry" if round_ else "first"
            self._again, self._wait_s = [], 0.0
            waiting = list(reversed(targets))
            while waiting:
                target = waiting.pop()
                if not self._may_try(target, reason):
                    continue
                try:
                    await self._attempt(target, reason, waiting)
                except XRouterError as error:
                    failure = error  # the last one is what the client is told
                    if self.answer.started or self.left:
                        raise
                    if not isinstance(error, UpstreamError) and not self._other_model_follows(target):
                        raise
                else:
                    return
                if not round_:
                    reason = "fallback"
            targets = self._again
            if not targets or round_ == route.retries:
                break
            wait_s = retry_wait_s(round_, self._wait_s, self.world)
            if not self._time_left(targets[0], wait_s):
                break
            targets = [target for target in targets if self._budget_allows(target)]
            if not targets:
                break
            await self.world.sleep(wait_s)
        raise failure or NoUpstreamAvailable()

    def _may_try(self, target: Target, reason: AttemptReason) -> bool:
        """A first try always: the last target is never given up (F05). A retry has been paid for before its wait.

        A fallback to a target that is left alone is no better than a retry (F04), so it has to be paid for.
        """
        if reason == "retry":
            return True
        if reason == "fallback" and not self.health.admits((target.upstream, target.model)):
            return self._budget_allows(target)
        self.services.upstreams[target.upstream].retry_budget.earn()
        return True

    def _budget_allows(self, target: Target) -> bool:
        return self.services.upstreams[target.upstream].retry_budget.take()

    def _other_model_follows(self, failed: Target) -> bool:
        """OpenRouter tries `models[]` in order on any error, a refused request included."""
        targets = self.ctx.route.targets
        return any(target.public_model != failed.public_model for target in targets[targets.index(failed) + 1 :])

    def _time_left(self, target: Target, wait_s: float) -> bool:
        total_s = self.services.upstreams[target.upstream].settings.timeouts.total_s
        return self.world.monotonic() - self.ctx.started + wait_s < total_s

    async def _attempt(self, target: Target, reason: AttemptReason, waiting: list[Target]) -> None:
        """One try at one target, or at two of them where a hedge is wanted: the next of `waiting` is the second."""
        ctx = self.ctx
        upstream_s = ctx.upstream_s
        self.answer.asked_at = began = self.world.monotonic()
        after_s = ctx.route.hedge_after_s
        try:
            if after_s is None or not waiting or reason == "retry":
                call, events = await self._begin(target, reason)
            else:
                call, events = await self._begin_hedged(target, reason, waiting, after_s)
            await self._pass_on(call, events)
        finally:
            if not self.answer.started:
                ctx.upstream_s = upstream_s + self.world.monotonic() - began

    async def _begin_hedged(
        self, target: Target, reason: AttemptReason, waiting: list[Target], after_s: float
    ) -> _Begun:
        def second() -> Coroutine[Any, Any, _Begun] | None:
            if self.answer.started or not self._budget_allows(waiting[-1]):
                return None
            return self._begin(waiting.pop(), "hedge", alone=False)

        self.answer.begin(None)
        call, events = await first_of(self._begin(target, reason, alone=False), second, after_s, self._discard)
        self.target = call.target
        self.answer.begin(call)
        return call, events

    async def _begin(self, target: Target, reason: AttemptReason, *, alone: bool = True) -> _Begun:
        """A call at `target` up to its first events, with another credential where one is refused or used up.

        `alone`: it does not race with another one, so the answer is its own.
        """
        upstream = self.services.upstreams[target.upstream]
        self.target = target
        tries_left = len(upstream.credentials.all)
        while True:
            tries_left -= 1
            began = self.world.monotonic()
            self.health.begin((target.upstream, target.model))
            call: UpstreamCall | None = None
            try:
                call = self._call(target, upstream, reason, began)
                if alone:
                    self.answer.begin(call)
                return call, await call.events()
            except BaseException as error:
                if call is None:
                    self._note(target, reason, began, error)
                else:
                    await call.aclose()
                    if self._fail(call, upstream, error) and tries_left:
                        reason = "credential"
                        continue
                self._keep_for_another_round(target, error)
                raise

    def _call(self, target: Target, upstream: Upstream, reason: AttemptReason, began: float) -> UpstreamCall:
        """Raises UpstreamError where every credential rests, or the route cannot work."""
        ctx, credentials = self.ctx, upstream.credentials
        name = ""
        if credentials.several or upstream.provider.uses_conversation:
            name = self._conversation = self._conversation or conversation(ctx)
        credential = credentials.choose(target.model, "" if ctx.call.kind == "embeddings" else name)
        model = self.services.catalog.entries()[target.public_model].settings
        purpose = Purpose(ctx.generation_id, ctx.request_id, name, model, credential.index)
        return UpstreamCall(ctx, target, upstream, credential, purpose, reason, began, self.world)

    async def _pass_on(self, call: UpstreamCall, events: Sequence[Event]) -> None:
        """The whole answer to the client, from its first events to its end."""
        try:
            while events:
                if data := self.answer.take(events):
                    await self.answer.send(data, events)
                    data = b""  # a stream that is silent now keeps nothing of its last bytes
                if call.ended:
                    break
                events = await call.events()
            await self._complete(call)
            await call.end()
        except BaseException as error:
            self._fail(call, self.services.upstreams[call.target.upstream], error)
            self._keep_for_another_round(call.target, error)
            raise
        finally:
            await call.aclose()

    def _complete(self, call: UpstreamCall) -> Awaitable[None]:
        """The answer is whole: write the outcome, then send what is left of it."""
        ctx = self.ctx
        call.noted = True  # before its connection is free, so that nobody who sees that misses the outcome
        self._note(call.target, call.reason, call.began, None, call)
        self.services.upstreams[call.target.upstream].credentials.served(call.credential, call.target.model)
        self.conclude("client_abort" if self.left else "complete", whole=True)
        usage = ctx.outcome.usage
        cost = ctx.quote.parts(usage, call.target) if usage is not None and ctx.provided("quote") else None
        return self.answer.complete(usage, cost)

    async def _discard(self, begun: _Begun) -> None:
        """The loser of a race had answered as well: nobody is charged for it."""
        call, _ = begun
        await call.aclose()
        if not call.noted:
            call.noted = True
            self._note(call.target, call.reason, call.began, asyncio.CancelledError(), call)

    def _fail(self, call: UpstreamCall, upstream: Upstream, error: BaseException) -> bool:
        """Note how a call failed, once. Whether another credential can take it over."""
        if call.noted:
            return False
        call.noted = True
        another = isinstance(error, UpstreamError) and upstream.credentials.blame(
            call.credential, call.target.model, error
        )
        another = another and not self.answer.started and not self.left
        self._note(call.target, call.reason, call.began, error, call, another=another)
        return another

    def _keep_for_another_round(self, target: Target, error: BaseException) -> None:
        if isinstance(error, UpstreamError) and error.retry:
            self._again.append(target)
            self._wait_s = max(self._wait_s, error.retry_after_s or 0.0)

    def _note(
        self,
        target: Target,
        reason: AttemptReason,
        began: float,
        error: BaseException | None,
        call: UpstreamCall | None = None,
        *,
        another: bool = False,
    ) -> None:
        """Write down how a try went, and tell the health of its place.

        Nothing is told of the place if no call was made, none of it reached the upstream (a queue of ours was too long), or
        the fault was one credential's and `another` takes over.
        """
        if isinstance(error, XRouterError):
            error.metadata.setdefault("provider_name", target.upstream)  # OpenRouter's word for who failed
        place = (target.upstream, target.model)
        now = self.world.monotonic()
        duration_s = now - began
        status, error_type, kind = 0, None, None
        if error is None and call is not None:
            status = 200
            usage = call.translator.usage
            self.health.succeeded(
                place,
                first_token_s=call.first_event_s,
                duration_s=now - call.called,
                output_tokens=usage.output_tokens if usage is not None else None,
            )
        elif isinstance(error, UpstreamError):
            status, error_type, kind = error.upstream_status or 0, error.type, error.kind
            queued = error.status == 429 and error.upstream_status is None
            if call is None or another or queued:
                self.health.abandoned(place)
            else:
                self.health.failed(place, error.kind, error.retry_after_s)
        else:
            self.health.abandoned(place)
            if isinstance(error, XRouterError):
                status, error_type = error.status, error.type
            else:
                error_type = "cancelled" if isinstance(error, asyncio.CancelledError) else "internal_error"
        credential = call.credential.index if call is not None else None
        started_s = began - self.ctx.started
        self.attempts.append(
            Attempt(target.upstream, target.model, status, error_type, kind, started_s, duration_s, reason, credential)
        )
