"""Wrong protocols, each one rule away from the right one: what incidents were made of. The explorer has to find each."""

from collections.abc import Iterator

from model.books import Charge, Generation, Hold, Lease, Op, Result, Rules, Store
from model.configurations import BOUNDED, EXACT, GROWING, WHOLE, Configuration
from model.gateway import IDLE, Protocol, Step
from model.state import Faults, Process, Request, State, Sweep


class SettledTwice(Protocol):
    """A settlement is not looked up: one whose answer was lost is charged again."""

    class rules_class(Rules):
        def settled_before(self, store: Store, g: int, is_open: bool) -> Charge | None:
            return None


class ExpiredIsCharged(Protocol):
    """A late settlement is covered by its hold, though that has expired and the credits may be held by others."""

    class rules_class(Rules):
        def held_of(self, hold: Hold | None) -> int:
            return hold.amount if hold is not None else 0


class UnboundedOverrun(Protocol):
    """What a hold does not cover is charged whatever the account has left."""

    class rules_class(Rules):
        def overrun(self, store: Store, wanted: int, unused: int) -> int:
            return wanted


class CheckThenWrite(Protocol):
    """What is left is read before the transaction that holds it."""

    class rules_class(Rules):
        def left_for(self, store: Store, op: Op) -> int:
            return op.seen


class ReleasedTwice(Protocol):
    """A hold is released whatever its state is."""

    class rules_class(Rules):
        def release(self, store: Store, op: Op) -> tuple[Store, Result]:
            if store.holds[op.generation] is not None:
                store = self.close(store, op.generation, "released")
            return store, None


class LeaseNotRead(Protocol):
    """A sweep ends every hold that is a lease old."""

    class rules_class(Rules):
        def is_dead(self, store: Store, hold: Hold) -> bool:
            return hold.state == "open" and hold.old


class LeaseNotCut(Protocol):
    """A lease written by a clock that has been set back since is believed."""

    class rules_class(Rules):
        def cut(self, leases: tuple[Lease, ...]) -> tuple[Lease, ...]:
            return leases


class GrantedTwice(Protocol):
    """A grant's idempotency key is not looked up."""

    class rules_class(Rules):
        def granted_before(self, store: Store) -> bool:
            return False


class RefundedTwice(Protocol):
    """A refund is bounded by the charge, not by what is left of it."""

    class rules_class(Rules):
        def refundable(self, left: int, amount: int) -> bool:
            return True


class AnsweredFirst(Protocol):
    """The last byte leaves before the settlement is committed."""

    def settles(self, state: State, g: int, cost: int) -> State:
        state = super().settles(state, g, cost)
        return state.at(g, stage="settled") if state.requests[g].attended else state


class HoldNotUndone(Protocol):
    """A hold whose answer was lost, or whose client has left, is left to itself."""

    def undone(self, state: State, p: int, g: int) -> State:
        return state


class NothingPutOff(Protocol):
    """What cannot be done while the store is away is forgotten."""

    def put_off(self, state: State, p: int, op: Op) -> State:
        return state


class JournalDroppedFirst(Protocol):
    """A journal is removed when it has been read, before what it held is settled."""

    def settles_page(self, state: State, p: int, sweep: Sweep) -> State:
        return super().settles_page(super().put_away(state, p, sweep), p, sweep)


class JournalEmptied(Protocol):
    """One's own journal is emptied after recovery, whatever was added meanwhile."""

    def put_away(self, state: State, p: int, sweep: Sweep) -> State:
        return super().put_away(state, -1, sweep) if sweep.file >= 0 else state

    def holder(self, state: State, p: int) -> int:
        return -1 if p == -1 else super().holder(state, p)


class JournalNotLocked(Protocol):
    """A process recovers the journals of others while they live, and removes them."""

    def locked(self, state: State, file: int) -> bool:
        return False


class JournalNotKept(Protocol):
    """A settlement that the store could not take is kept in memory only."""

    def journaled(self, state: State, g: int) -> State:
        kept = Op("settle", g, state.requests[g].cost)
        return self.put_off(state, self.generations[g].home, kept).at(g, stage="settled")


class ClockNotCompared(Protocol):
    """The sweeper does not notice that the clock was set, nor that the store was away."""

    def holds_still(self, process: Process) -> bool:
        return False


class OutageForgotten(Protocol):
    """Once the store is back, whoever sweeps first ends the holds of all who could not renew: the product, once."""

    def holds_still(self, process: Process) -> bool:
        return False


class NoSweeper(Protocol):
    """Nobody ends the holds of the dead."""

    def sweeps(self, state: State, p: int) -> Iterator[Step]:
        if state.processes[p].mode == "starting":
            yield from super().sweeps(state, p)

    def catches_up(self, state: State, p: int) -> State:
        return state.with_process(p, state.processes[p]._replace(sweep=IDLE, mode="up"))


class RetriedUnderANewName(Protocol):
    """A settlement whose answer was lost is sent again as another generation's, which nothing can recognise."""

    def serves(self, state: State, g: int, request: Request) -> Iterator[Step]:
        if request.stage == "failing" and g + 1 < len(self.generations):
            renamed = Op("settle", g + 1, request.cost, "request")
            again = self.asks(state, self.generations[g].home, renamed)
            yield (
                f"{g} is settled again as {g + 1}",
                again.at(g, stage="ended").at(g + 1, stage="gone", cost=request.cost),
            )
        else:
            yield from super().serves(state, g, request)


_OF_OTHER = EXACT._replace(home=1)  # of the other process


def _pair(faults: Faults, balance: int = 4, second: Generation = _OF_OTHER) -> Configuration:
    return Configuration((EXACT, second), faults, balance)


# Each with where it is to be found and a part of what the explorer must say of it.
MUTANTS: dict[type[Protocol], tuple[Configuration, str]] = {
    SettledTwice: (_pair(Faults(lost=1)), "settled 2 times"),
    ExpiredIsCharged: (BOUNDED["stopped for an hour"], "charged more|below its floor"),
    UnboundedOverrun: (_pair(Faults(), 3, GROWING), "below its floor"),
    CheckThenWrite: (_pair(Faults(), 3), "below its floor"),
    ReleasedTwice: (BOUNDED["commits that fail or lose their answer"], "are held|ended 2 times"),
    LeaseNotRead: (BOUNDED["stopped for an hour"], "under a living process"),
    LeaseNotCut: (BOUNDED["a kill, and the clock is set"], "quiescence"),
    GrantedTwice: (BOUNDED["a grant and refunds"], "grant was made 2 times"),
    RefundedTwice: (BOUNDED["a grant and refunds"], "more of 0 is refunded"),
    AnsweredFirst: (BOUNDED["a kill in an outage"], "the client saw 0 finished"),
    HoldNotUndone: (BOUNDED["commits that fail or lose their answer"], "quiescence"),
    NothingPutOff: (BOUNDED["a kill in an outage"], "quiescence"),
    JournalDroppedFirst: (BOUNDED["a kill in an outage"], "the client saw 0 finished"),
    JournalEmptied: (BOUNDED["an outage, two journaled"], "saw . finished"),
    JournalNotLocked: (BOUNDED["an outage, two journaled"], "saw . finished"),
    JournalNotKept: (BOUNDED["a kill in an outage"], "the client saw 0 finished"),
    ClockNotCompared: (BOUNDED["stopped, and the clock is set"], "under a living process"),
    OutageForgotten: (
        Configuration((EXACT, EXACT._replace(home=1)), Faults(outage=1), 4),
        "under a living process",
    ),
    NoSweeper: (BOUNDED["a kill, two requests"], "quiescence"),
    RetriedUnderANewName: (_pair(Faults(lost=1), 8, WHOLE), "charge|exactly once|settled"),
}
