"""One request's money: a hold before it is sent on, watched while it streams, and one end.

The order of an end: the outcome is written (by dispatch), it is settled here, and only then does the next message go to the
client. So the last byte never leaves before the charge is durable, and every other way out (an error, a cancellation, a
filter that fails) is settled or released by `close`.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from msgspec import structs

from xrouter.catalog import Catalog
from xrouter.config.version import InForce
from xrouter.context import Call, Outcome, RequestContext, Target
from xrouter.errors import PaymentRequired, StoreUnavailable, UpstreamProtocolError
from xrouter.events import Event, Usage
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.limits import SpendingLimit
from xrouter.ledger.operations import Settlement
from xrouter.ledger.outputs import RecentOutputs
from xrouter.ledger.prices import PriceQuote
from xrouter.ledger.receipts import details
from xrouter.wire import ChatRequest
from xrouter.world import World

_log = logging.getLogger(__name__)
OnStoreFailure = Literal["deny", "allow"]
Result = Literal["free", "charged", "pending", "doubtful"]
"""Of a request. Pending: it will be settled. Doubtful: its client has nothing, but it may be settled all the same."""
_LONGEST_ANSWER: Final = 131_072  # tokens, where the configuration does not say a model's
_GROWTH: Final = 2  # a hold that is used up is extended for so many times of what has been delivered


@dataclass(frozen=True, slots=True)
class Parts:
    """What billing needs of the gateway."""

    ledger: Ledger
    world: World
    catalog: Catalog
    outputs: RecentOutputs
    on_store_failure: OnStoreFailure
    configuration: InForce


class Billing:
    """Of one request. `admit`, then `before_sending` each message, then `close`, whatever happened.

    `quota`: the limits that the key's tier sets.
    """

    def __init__(
        self,
        parts: Parts,
        ctx: RequestContext,
        quote: PriceQuote,
        headers: Sequence[tuple[bytes, bytes]],
        quota: tuple[SpendingLimit, ...] = (),
    ) -> None:
        self._parts = parts
        self._ctx = ctx
        self._quote = quote
        self._headers = list(headers)
        self._quota = quota
        self._choices = ctx.call.request.answers()
        self._held_nano: int | None = None
        self._covered: int | None = None  # output tokens that the hold covers, where it may have to grow
        self._delivered = 0  # output tokens sent to the client, counted only where the hold may have to grow
        self._output_cap: int | None = None
        self._sent = False
        self._ended = False
        self.result: Result = "free"

    async def admit(self) -> None:
        """Hold what the request may cost. Raises PaymentRequired and StoreUnavailable: it then must not go on."""
        ctx, quote, estimate = self._ctx, self._quote, self._ctx.estimate
        if quote.free:
            return
        elastic = estimate.output_cap is None
        per_choice = self._expected() if estimate.output_cap is None else estimate.output_cap
        wanted = quote.most(estimate.input_tokens, per_choice * self._choices)
        least = quote.most(estimate.input_tokens, self._choices) if elastic else wanted
        try:
            granted = await self._parts.ledger.hold(
                ctx.generation_id,
                ctx.principal.account,
                ctx.principal.key_id,
                wanted_nano=wanted,
                least_nano=min(least, wanted),
                quota=self._quota,
            )
        except StoreUnavailable:
            if self._parts.on_store_failure == "deny":
                raise
            _log.warning("request %s goes on without a hold: the store has failed", ctx.request_id)
            return
        self._held_nano = granted.amount_nano
        if elastic:
            self._covered = quote.affordable_output(granted.amount_nano, estimate.input_tokens)
            self._cap(granted.payable_nano)

    async def before_sending(self, message: Any) -> None:
        """Settle before the last message, and before the only one of an answer that is not streamed.

        Raises PaymentRequired when a stream has used up its hold and there are no credits for more.
        """
        if self._ended:
            return
        if self._ctx.provided("outcome"):
            await self._settle(self._ctx.outcome)
        elif self._covered is not None and (events := message.get("xrouter.events")):
            await self._cover(events)
        self._sent = True

    async def close(self) -> None:
        """The request has left the chain: end what has not ended."""
        if self._ended:
            return
        try:
            if self._ctx.provided("outcome"):
                await self._settle(self._ctx.outcome)
            elif self._delivered:
                # Something inside failed without an outcome. What was counted here is what is known to be delivered.
                await self._settle(Outcome(end="upstream_error", usage=self._counted(), target=None))
            elif self._held_nano is not None:
                self._ended = True
                await self._parts.ledger.release(self._ctx.generation_id)
        except StoreUnavailable as error:
            _log.error("request %s is settled when the store is back: %s", self._ctx.request_id, error.detail)

    def _expected(self) -> int:
        """Output tokens that a choice of an answer without a bound will hardly exceed."""
        expected = max(map(self._parts.outputs.expected, self._ctx.route.targets))
        return min(expected, self._longest())

    def _longest(self) -> int:
        """Output tokens of the longest answer that any of the targets can give."""
        entries, longest = self._parts.catalog.entries(), 1
        for target in self._ctx.route.targets:
            model = entries[target.public_model].settings
            room = (model.context or _LONGEST_ANSWER) - self._ctx.estimate.input_tokens
            longest = max(longest, min(model.max_output or _LONGEST_ANSWER, room))
        return longest

    def _cap(self, payable_nano: int) -> None:
        """Bound the answer by what can be paid, if that is less than the model can say (promise 5)."""
        payable = self._quote.affordable_output(payable_nano, self._ctx.estimate.input_tokens)
        if payable is None or payable // self._choices >= self._longest():
            return
        cap = max(1, payable // self._choices)
        call = self._ctx.call
        self._output_cap = cap
        self._ctx.amend_call(
            replace(
                call,
                request=structs.replace(call.request, max_tokens=cap),
                body={**call.body, "max_tokens": cap},
                raw=None,
            )
        )

    async def _cover(self, events: Sequence[Event]) -> None:
        """Let the hold grow with the answer, before more of the answer is sent than it covers."""
        count = self._ctx.estimate.count
        self._delivered += sum(count(text) for event in events if (text := event.text))
        if self._covered is None or self._delivered <= self._covered or self._held_nano is None:
            return
        input_tokens = self._ctx.estimate.input_tokens
        needed = self._quote.most(input_tokens, self._delivered) - self._held_nano
        wanted = self._quote.most(input_tokens, self._delivered * _GROWTH) - self._held_nano
        try:
            granted = await self._parts.ledger.extend(
                self._ctx.generation_id, more_nano=max(wanted, 0), least_nano=max(needed, 0), quota=self._quota
            )
        except StoreUnavailable:
            self._covered = None  # a stream under way is finished; what the hold lacks becomes an overrun (F13)
            return
        self._held_nano = granted.amount_nano
        self._covered = self._quote.affordable_output(granted.amount_nano, input_tokens)

    async def _settle(self, outcome: Outcome) -> None:
        self._ended = True
        self.result = "pending"
        settlement = self._settlement(outcome)
        if outcome.end == "complete" and outcome.target is not None and settlement.output_tokens is not None:
            self._parts.outputs.add(outcome.target, settlement.output_tokens // self._choices)
        try:
            settled = await self._parts.ledger.settle(settlement, delivered=self._sent)
        except StoreUnavailable:
            if not self._sent:
                self.result = "doubtful"
            raise
        except asyncio.CancelledError:
            if outcome.end != "complete" or self._sent:
                raise
            # The gateway stops. The ledger goes on settling, so this answer will be charged: then it has to be given, too.
            # Settling has an end (seconds), and a second cancellation is heeded.
            settled = await self._parts.ledger.settle(settlement, delivered=False)
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        self.result = "charged" if settled.charged_nano or outcome.end == "complete" else "free"

    def void(self, generation_id: str) -> Settlement:
        """The end, for nothing, of a generation of the same request whose process is gone, or whose end is in doubt."""
        ended = self._settlement(Outcome(end="shutdown", usage=None, target=None))
        return structs.replace(ended, generation_id=generation_id, rule="abandoned")

    def _settlement(self, outcome: Outcome) -> Settlement:
        ctx, target = self._ctx, outcome.target or self._ctx.route.targets[0]
        rule, usage = self._rule(outcome)
        try:
            cost, provider_cost = self._costs(usage, target)
        except UpstreamProtocolError:
            rule, usage = "recounted", self._counted()
            cost, provider_cost = self._costs(usage, target)
        return Settlement(
            generation_id=ctx.generation_id,
            account=ctx.principal.account,
            key_hash=ctx.principal.key_id,
            model=target.public_model,
            upstream=outcome.target.upstream if outcome.target else None,
            upstream_model=outcome.target.model if outcome.target else None,
            outcome=outcome.end,
            rule=rule,
            finish_reason=outcome.finish_reason,
            input_tokens=usage.input_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else None,
            cached_tokens=usage.cached_tokens if usage else None,
            reasoning_tokens=usage.reasoning_tokens if usage else None,
            usage_source=usage.source if usage else None,
            images=self._quote.images,
            price=self._quote.of(target).version,
            cost_nano=cost,
            provider_cost_nano=provider_cost,
            created_at_us=int(ctx.started_at * 1e6),
            details=details(
                ctx,
                outcome,
                self._headers,
                duration_s=self._parts.world.monotonic() - ctx.started,
                output_cap=self._output_cap,
                held_nano=self._held_nano,
                configuration=self._parts.configuration,
            ),
        )

    def _rule(self, outcome: Outcome) -> tuple[str, Usage | None]:
        """The rule of docs/money.md that applies, and the usage that it charges for."""
        usage = outcome.usage
        if outcome.end == "complete":
            return "complete", usage
        if usage is None:
            return "nothing_generated", None
        if outcome.end == "client_abort":
            if self._ctx.client_abort == "cancel" and usage.source != "reported":
                usage = None
            return f"client_abort:{self._ctx.client_abort}", usage
        if not self._sent:
            return "nothing_delivered", None
        if isinstance(outcome.error, PaymentRequired):
            return "credits_exhausted", usage
        return f"{outcome.end}:delivered", usage

    def _costs(self, usage: Usage | None, target: Target) -> tuple[int, int]:
        if usage is None:
            return 0, 0
        return self._quote.cost(usage, target), self._quote.provider_cost(usage, target)

    def _counted(self) -> Usage:
        return Usage(self._ctx.estimate.input_tokens, self._delivered, source="counted")


def count_images(call: Call) -> int:
    """How many images the request holds."""
    if not isinstance(call.request, ChatRequest):
        return 0
    return sum(
        part.type == "image_url"
        for message in call.request.messages
        if isinstance(message.content, list)
        for part in message.content
    )
