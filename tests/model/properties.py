"""What must hold in every reachable state. docs/ledger-model.md says which tests hold the product to each."""

from collections.abc import Iterator

from model.books import GRANT, Generation, Store
from model.state import State


def problems(state: State, generations: tuple[Generation, ...], opening_balance: int) -> Iterator[str]:
    store = state.store
    if state.broken:
        yield state.broken
    yield from _books(store, opening_balance)
    if store.grants > 1 or (state.granted and store.grants != 1):
        yield f"exactly once: the grant was made {store.grants} times"
    for g, request in enumerate(state.requests):
        charges = store.charges[g]
        if len(charges) > 1:
            yield f"I6: {g} is settled {len(charges)} times"
        kept = any((g, request.cost) in journal for journal in state.journals)
        if request.stage == "finished" and not charges and not kept:
            yield f"exactly once: the client saw {g} finished, and neither store nor journal has its settlement"
        for charge in charges:
            if charge.cost != request.cost or charge.charged > charge.cost:
                yield f"the charge of {g} is {charge}, it cost {request.cost}"
            hold = store.holds[g]
            if hold is not None and hold.state == "settled" and charge.charged < min(hold.amount, charge.cost):
                yield f"{g} is charged less than its hold covers"


def _books(store: Store, opening_balance: int) -> Iterator[str]:
    charged = sum(charge.charged for charges in store.charges for charge in charges)
    moved = opening_balance + GRANT * store.grants - charged + sum(store.refunds)
    if store.balance + store.revenue + store.promotions:
        yield "I1: the balances do not sum to 0"
    if store.balance != moved:
        yield f"I2: the balance is {store.balance}, the entries give {moved}"
    opened = sum(hold.amount for hold in store.holds if hold is not None and hold.state == "open")
    if store.held != opened:
        yield f"I3: {store.held} are held, the open holds are {opened}"
    if store.left < 0:
        yield f"I4: the account is at {store.left}, below its floor"
    for g, hold in enumerate(store.holds):
        if hold is None:
            continue
        if hold.ends != (hold.state != "open"):
            yield f"I5: the hold of {g} has ended {hold.ends} times"
        if (hold.state == "open" and store.charges[g]) or (hold.state == "settled" and not store.charges[g]):
            yield f"I5: the hold of {g} is {hold.state} and its generation contradicts that"
        if any(charge.covered > hold.amount for charge in store.charges[g]):
            yield f"I6: {g} is charged more than was held, outside of an overrun"
    for g, charges in enumerate(store.charges):
        if store.refunds[g] > sum(charge.charged for charge in charges):
            yield f"more of {g} is refunded than was charged"
        if any(min(charge) < 0 for charge in charges):
            yield f"I8: an amount of {g} is negative"
