"""Bugs to plant in the production code, one for each class of incident that has to do with money.

Each is what somebody has really shipped (../shared/incidents.md) or what a row of the fault matrix is there for. The
simulation has to find every one of them; `test_planted_bugs.py` says within how many seeds.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

from msgspec.structs import replace

from xrouter.dispatch.answer import Answer
from xrouter.dispatch.relay import Relay
from xrouter.errors import PaymentRequired, StoreUnavailable
from xrouter.events import Usage
from xrouter.ledger import book as book_module
from xrouter.ledger.billing import Billing
from xrouter.ledger.book import REVENUE, Book
from xrouter.ledger.journal import Journal
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.operations import Expire, Settlement
from xrouter.ledger.prices import PriceBook, Rates
from xrouter.ledger.sweeper import Sweeper

Patches = list[tuple[Any, str, Any]]
PLANTED: Final[dict[str, Callable[[], Patches]]] = {}


def bug(make: Callable[[], Patches]) -> Callable[[], Patches]:
    PLANTED[make.__name__] = make
    return make


@contextmanager
def planted(name: str) -> Iterator[None]:
    patches = [patch.object(owner, attribute, new) for owner, attribute, new in PLANTED[name]()]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in reversed(patches):
            each.stop()


@bug
def settlement_is_not_looked_up() -> Patches:
    """F18, I-23: a settlement that comes again is posted again. (The database's own constraint still refuses it.)"""
    return [(Book, "_generation", lambda self, generation_id: None)]


@bug
def hold_is_left_by_a_cancelled_request() -> Patches:
    """I-22: the client leaves while its hold is being committed, and nobody undoes it."""

    async def undo(self: Ledger, generation_id: str) -> None:
        """Forgotten."""

    return [(Ledger, "_undo_hold", undo)]


@bug
def who_leaves_pays_nothing() -> Patches:
    """I-21: the code that bills dies with the request's task (LiteLLM #14457, and three more)."""
    close = Billing.close

    async def forgets(self: Billing) -> None:
        if self._ctx.provided("outcome") and self._ctx.outcome.end == "client_abort" and not self._ended:
            self._ended = True
            await self._parts.ledger.release(self._ctx.generation_id)
        await close(self)

    return [(Billing, "close", forgets)]


@bug
def lost_answer_is_charged_again() -> Patches:
    """F15: after an answer that was lost the settlement is sent anew, under an id of its own."""
    again = Ledger._settle_again

    async def anew(self: Ledger, settlement: Settlement, delivered: bool) -> Any:
        other = settlement.generation_id[:-1] + ("0" if settlement.generation_id[-1] != "0" else "1")
        return await again(self, replace(settlement, generation_id=other), delivered)

    return [(Ledger, "_settle_again", anew)]


@bug
def sweep_charges_what_was_held() -> Patches:
    """I5: an expired hold is taken for what the request has cost."""
    close = Book._close

    def charges(self: Book, hold: Any, state: Any) -> None:
        close(self, hold, state)
        if state == "expired":
            self._post("charge", hold.account, REVENUE, hold.amount_nano, hold.generation_id)

    return [(Book, "_close", charges)]


@bug
def price_is_read_at_settlement() -> Patches:
    """Promise 6: a reload while a request is under way changes what it costs."""
    init, settlement = PriceBook.__init__, Billing._settlement
    newest: list[Any] = []

    def remembers(self: PriceBook, configuration: Any) -> None:
        newest[:] = [configuration]
        init(self, configuration)

    def requotes(self: Billing, outcome: Any) -> Settlement:
        self._quote = PriceBook(newest[0]).quote(self._ctx.route.targets, self._ctx.started_at, self._quote.images)
        return settlement(self, outcome)

    return [(PriceBook, "__init__", remembers), (Billing, "_settlement", requotes)]


@bug
def journal_is_applied_twice() -> Patches:
    """F13: two readers of one file, and what they settle has ids of its own."""
    recover = Journal.recover

    async def twice(self: Journal, settle: Any) -> int:
        async def both(settlement: Settlement) -> None:
            await settle(settlement)
            await settle(replace(settlement, generation_id=settlement.generation_id[::-1]))

        return await recover(self, both)

    return [(Journal, "recover", twice)]


@bug
def journal_is_lost_in_a_crash() -> Patches:
    """F13, F17: the journal is written when the process ends, and a killed process ends otherwise."""
    append, close = Journal._append, Journal._close

    def buffers(self: Any, line: bytes) -> None:
        self.__dict__.setdefault("_unwritten", []).append(line)

    def writes(self: Any) -> None:
        for line in self.__dict__.pop("_unwritten", []):
            append(self, line)
        close(self)

    return [(Journal, "_append", buffers), (Journal, "_close", writes)]


@bug
def prices_are_floats() -> Patches:
    """I8: a price is rounded on its way."""

    def cost(self: Rates, usage: Usage, images: int = 0) -> int:
        cached, reasoning = usage.cached_tokens or 0, usage.reasoning_tokens or 0
        exact = (
            self.input / self.denominator * (usage.input_tokens - cached)
            + self.cached_input / self.denominator * cached
            + self.output / self.denominator * (usage.output_tokens - reasoning)
            + self.reasoning / self.denominator * reasoning
            + self.request / self.denominator
        )
        return math.floor(exact + 0.5)

    return [(Rates, "cost", cost)]


@bug
def floor_is_checked_without_what_is_held() -> Patches:
    """I4, F33, I-16: each request alone can be afforded."""
    return [(book_module, "_left", lambda account, key: account.balance_nano - account.floor_nano)]


@bug
def who_leaves_pays_for_a_complete_answer() -> Patches:
    """I-21 the other way round (LiteLLM #37992): an abort is told as complete."""
    conclude = Relay.conclude

    def completes(self: Relay, end: Any, error: Any = None, *, whole: bool = False) -> None:
        conclude(self, "complete" if end == "client_abort" else end, error, whole=whole or end == "client_abort")

    return [(Relay, "conclude", completes)]


@bug
def shutdown_bills_nothing() -> Patches:
    """F21, I-30: what is cut at the end of the drain has no outcome, and its hold is let go."""
    close = Billing.close

    async def forgets(self: Billing) -> None:
        if self._ctx.provided("outcome") and self._ctx.outcome.end == "shutdown" and not self._ended:
            self._ended = True
            await self._parts.ledger.release(self._ctx.generation_id)
        await close(self)

    async def silent(self: Relay) -> None:
        self.conclude("shutdown")

    return [(Billing, "close", forgets), (Relay, "cut_short", silent)]


@bug
def a_charge_is_refunded_twice() -> Patches:
    """F37, I-36: a refund does not look at those before it."""
    return [(Book, "_check_refund", lambda self, wanted: None)]


@bug
def a_clock_that_is_set_ends_living_holds() -> Patches:
    """F20: the sweep trusts the wall clock."""
    return [(Sweeper, "_clock_was_set", lambda self: False)]


@bug
def a_stream_outgrows_its_hold() -> Patches:
    """Promise 5: the end of the credits is not the end of the stream."""
    cover = Billing._cover

    async def covers(self: Billing, events: Any) -> None:
        try:
            await cover(self, events)
        except PaymentRequired:
            self._covered = None

    return [(Billing, "_cover", covers)]


@bug
def missing_usage_is_free() -> Patches:
    """I-31, F07: what the provider does not report is nothing."""
    return [(Answer, "_counted", lambda self: Usage(0, 0, source="counted"))]


@bug
def the_last_byte_leaves_before_the_settlement() -> Patches:
    """F18: the charge is durable a moment after the client has everything."""

    async def later(self: Billing, message: Any) -> None:
        events = message.get("xrouter.events")
        if events and not self._ended and not self._ctx.provided("outcome"):
            await self._cover(events)
        self._sent = True

    return [(Billing, "before_sending", later)]


@bug
def an_idempotency_key_is_not_looked_up() -> Patches:
    """F29, I-13: a grant that comes again is granted again."""

    def strangers(self: Book, wanted: Any) -> Any:
        if wanted.kind == "grant":
            wanted = replace(wanted, idempotency_key=None)
        return transfer(self, wanted)

    transfer = Book._transfer
    return [(Book, "_transfer", strangers)]


@bug
def a_lease_is_not_renewed() -> Patches:
    """F17 the other way round: the holds of a living process expire."""
    renew, renewed = Ledger.renew, set[int]()

    async def once(self: Ledger) -> None:
        if id(self) not in renewed:
            renewed.add(id(self))
            await renew(self)

    return [(Ledger, "renew", once)]


@bug
def holds_of_the_dead_stay() -> Patches:
    """F17, I-22: nobody sweeps."""

    def keeps(self: Book, operation: Expire) -> int:
        return 0

    return [(Book, "_expire", keeps)]


@bug
def an_outage_lets_requests_through() -> Patches:
    """F13, I-26: the store is down, so nothing is held, and the upstream is asked all the same."""
    admit = Billing.admit

    async def admits(self: Billing) -> None:
        try:
            await admit(self)
        except StoreUnavailable:
            return

    return [(Billing, "admit", admits)]
