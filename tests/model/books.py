"""The store of the protocol model: the rules of xrouter/ledger/book.py, said again in whole credits and without a database.

A `Store` is what is committed. `Rules.commit` takes one batch in one transaction, as a `Book` does. The wrong protocols of
mutants.py override single rules; test_conformance.py holds the right ones against the product's.
"""

from typing import Literal, NamedTuple, TypeVar

T = TypeVar("T")

Lease = Literal["absent", "lapsed", "valid", "far"]  # far: it ends later than any can, since the clock was set back
UNAVAILABLE = "unavailable"
REFUSED = "refused"


class Generation(NamedTuple):
    """What one request will ask for, in credits. `home`: the slot of the process that serves it."""

    home: int
    wanted: int
    least: int
    cost: int  # of the whole answer
    partial: int  # of what a client has got that leaves in the middle
    more: int = 0  # by how much its hold wants to grow while it streams
    streamed: bool = True
    allow: bool = False  # on_store_failure: it goes on without a hold
    leaves: bool = True  # its client may leave at any time
    fails: bool = True  # its upstream may fail before it has said anything, and a filter may refuse it


class Op(NamedTuple):
    """One operation. `asker` is the part of the process that waits for the answer; the store does not see it."""

    kind: Literal["open", "extend", "settle", "release", "renew", "expire", "grant", "refund"]
    generation: int = 0
    amount: int = 0
    asker: str = ""
    seen: int = 0  # what check-then-write has read before: only a wrong protocol looks at it


class Hold(NamedTuple):
    state: Literal["open", "settled", "released", "expired"]
    amount: int
    holder: int
    old: bool = False  # opened a lease ago, or later than now
    ends: int = 0


class Charge(NamedTuple):
    """A generation's row, with its entries."""

    cost: int
    covered: int
    overrun: int

    @property
    def charged(self) -> int:
        return self.covered + self.overrun


class Store(NamedTuple):
    """`charges` and `refunds` are append-only, per generation; `grants` counts how often the one grant was made."""

    balance: int
    held: int
    revenue: int
    promotions: int
    holds: tuple[Hold | None, ...]
    charges: tuple[tuple[Charge, ...], ...]
    refunds: tuple[int, ...]
    leases: tuple[Lease, ...]
    grants: int = 0

    @property
    def left(self) -> int:
        return self.balance - self.held


Result = str | int | tuple[object, ...] | None
GRANT = 2


def replaced(items: tuple[T, ...], at: int, item: T) -> tuple[T, ...]:
    return (*items[:at], item, *items[at + 1 :])


class Rules:
    def __init__(self, generations: tuple[Generation, ...]) -> None:
        self.generations = generations

    def commit(self, base: Store, ops: tuple[Op, ...], holder: int) -> tuple[Store, tuple[Result, ...]]:
        """One transaction. `base`: what was committed before it, which is what a sweep within it sees."""
        store, results = base, []
        for op in ops:
            store, result = self.apply(store, op, holder, base)
            results.append(result)
        return store, tuple(results)

    def apply(self, store: Store, op: Op, holder: int, base: Store) -> tuple[Store, Result]:
        match op.kind:
            case "open":
                return self.open(store, op, holder)
            case "extend":
                return self.extend(store, op)
            case "settle":
                return self.settle(store, op)
            case "release":
                return self.release(store, op)
            case "renew":
                return store._replace(leases=replaced(store.leases, holder, "valid")), None
            case "expire":
                return self.expire(store, base)
            case "grant":
                return self.grant(store)
            case "refund":
                return self.refund(store, op)

    def open(self, store: Store, op: Op, holder: int) -> tuple[Store, Result]:
        g, left = op.generation, self.left_for(store, op)
        hold = store.holds[g]
        if hold is not None:
            return store, ("granted", hold.amount, hold.amount + max(0, left)) if hold.state == "open" else REFUSED
        amount = min(self.generations[g].wanted, left)
        if store.charges[g] or amount < self.generations[g].least or left < 0:
            return store, REFUSED
        opened = Hold("open", amount, holder)
        return (
            store._replace(holds=replaced(store.holds, g, opened), held=store.held + amount),
            ("granted", amount, left),
        )

    def left_for(self, store: Store, op: Op) -> int:
        return store.left

    def extend(self, store: Store, op: Op) -> tuple[Store, Result]:
        g, hold, left = op.generation, store.holds[op.generation], store.left
        if hold is None or hold.state != "open" or left < op.amount:
            return store, REFUSED
        grown = hold._replace(amount=hold.amount + op.amount)
        return (
            store._replace(holds=replaced(store.holds, g, grown), held=store.held + op.amount),
            ("granted", grown.amount, grown.amount + left - op.amount),
        )

    def release(self, store: Store, op: Op) -> tuple[Store, Result]:
        hold = store.holds[op.generation]
        if hold is not None and hold.state == "open":
            store = self.close(store, op.generation, "released")
        return store, None

    def close(self, store: Store, g: int, state: Literal["settled", "released", "expired"]) -> Store:
        hold = store.holds[g]
        assert hold is not None
        ended = hold._replace(state=state, ends=hold.ends + 1, old=False)
        return store._replace(holds=replaced(store.holds, g, ended), held=store.held - hold.amount)

    def settle(self, store: Store, op: Op) -> tuple[Store, Result]:
        """An amount of 0 stands for a generation of which nothing was generated."""
        g, cost, hold = op.generation, op.amount, store.holds[op.generation]
        is_open = hold is not None and hold.state == "open"
        if before := self.settled_before(store, g, is_open):
            return store, ("settled", before.charged, before.overrun, True)
        held = self.held_of(hold)
        covered = min(cost, held)
        overrun = self.overrun(store, cost - covered, held - covered) if covered < cost else 0
        if is_open:
            store = self.close(store, g, "settled" if cost else "released")
        charge = Charge(cost, covered, overrun)
        return (
            store._replace(
                balance=store.balance - charge.charged,
                revenue=store.revenue + charge.charged,
                charges=replaced(store.charges, g, (*store.charges[g], charge)),
            ),
            ("settled", charge.charged, charge.overrun, False),
        )

    def settled_before(self, store: Store, g: int, is_open: bool) -> Charge | None:
        return store.charges[g][0] if store.charges[g] and not is_open else None

    def held_of(self, hold: Hold | None) -> int:
        return hold.amount if hold is not None and hold.state == "open" else 0

    def overrun(self, store: Store, wanted: int, unused: int) -> int:
        return max(0, min(wanted, store.left + unused))

    def expire(self, store: Store, base: Store) -> tuple[Store, Result]:
        """Which holds there are is read from `base`, what became of them in this batch from `store`."""
        store = store._replace(leases=self.cut(store.leases))
        dead = [g for g, hold in enumerate(base.holds) if hold is not None and self.is_dead(store, hold)]
        dead = [g for g in dead if (hold := store.holds[g]) is not None and self.still_open(hold)]
        for g in dead:
            store = self.close(store, g, "expired")
        if not dead:
            living = {hold.holder for hold in base.holds if hold is not None and hold.state == "open"}
            store = store._replace(
                leases=tuple(
                    "absent" if lease == "lapsed" and holder not in living else lease
                    for holder, lease in enumerate(store.leases)
                )
            )
        return store, len(dead)

    def cut(self, leases: tuple[Lease, ...]) -> tuple[Lease, ...]:
        return tuple("valid" if lease == "far" else lease for lease in leases)

    def is_dead(self, store: Store, hold: Hold) -> bool:
        lease = store.leases[hold.holder]
        return hold.state == "open" and (lease == "lapsed" or (lease == "absent" and hold.old))

    def still_open(self, hold: Hold) -> bool:
        return hold.state == "open"

    def grant(self, store: Store) -> tuple[Store, Result]:
        if not self.granted_before(store):
            store = store._replace(
                balance=store.balance + GRANT, promotions=store.promotions - GRANT, grants=store.grants + 1
            )
        return store, ("balance", store.balance)

    def granted_before(self, store: Store) -> bool:
        return store.grants > 0

    def refund(self, store: Store, op: Op) -> tuple[Store, Result]:
        g = op.generation
        charged = sum(charge.charged for charge in store.charges[g])
        if not store.charges[g] or not self.refundable(charged - store.refunds[g], op.amount):
            return store, REFUSED
        store = store._replace(
            balance=store.balance + op.amount,
            revenue=store.revenue - op.amount,
            refunds=replaced(store.refunds, g, store.refunds[g] + op.amount),
        )
        return store, ("balance", store.balance)

    def refundable(self, left: int, amount: int) -> bool:
        return amount <= left


def passed(store: Store, renewed: tuple[int, ...]) -> Store:
    """A lease's time goes by, in which the holders `renewed` renew theirs."""
    leases: list[Lease] = ["lapsed" if lease == "valid" else lease for lease in store.leases]
    for holder in renewed:
        leases[holder] = "valid"
    return store._replace(leases=tuple(leases), holds=_aged(store.holds))


def jumped(store: Store, forward: bool) -> Store:
    """The wall clock is set by much more than a lease."""
    to: Lease = "lapsed" if forward else "far"
    leases: tuple[Lease, ...] = tuple(lease if lease == "absent" else to for lease in store.leases)
    return store._replace(leases=leases, holds=_aged(store.holds))


def _aged(holds: tuple[Hold | None, ...]) -> tuple[Hold | None, ...]:
    return tuple(hold._replace(old=True) if hold is not None and hold.state == "open" else hold for hold in holds)
