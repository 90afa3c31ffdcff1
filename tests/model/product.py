"""The product's `Book` on a real database, brought to where the model is, one change at a time.

The changes of the store that exploration has seen make a graph. It is walked depth first; a savepoint of SQLite stands for
each state on the way, so that going back costs nothing. An amount of the model is a thousand nanocredits here, a lease's
time passes by the clock, and `seen_as` says what the database is in the model's words.
"""

import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from kit.ledger_walk import LEASE_US
from kit.money import ACCOUNT, KEY, settlement
from model.books import GRANT, REFUSED, Charge, Generation, Hold, Lease, Op, Result, Store

from xrouter.errors import XRouterError
from xrouter.ledger.book import Book, apply_all
from xrouter.ledger.operations import (
    Balance,
    Expire,
    ExtendHold,
    HoldGranted,
    OpenHold,
    Operation,
    ReleaseHold,
    Renew,
    Settled,
    Transfer,
)
from xrouter.store.ledger import LedgerTables

CREDIT: Final = 1000  # nanocredits
_JUMP_US: Final = 20 * 86_400_000_000
_START_US: Final = 1_800_000_000_000_000
Edges = dict[tuple[Store, Any], tuple[Store, Any]]


class Product:
    """`database`: a file with this program's schema, which is not changed."""

    def __init__(self, database: Path, generations: tuple[Generation, ...], initial: Store) -> None:
        self.generations = generations
        self.initial = initial
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        with sqlite3.connect(database) as template:
            template.backup(self.connection)
        template.close()
        self.compared = 0
        setup: list[Operation] = [self.grant(initial.balance, "opening")]
        setup += [Renew(str(holder), LEASE_US) for holder, lease in enumerate(initial.leases) if lease == "valid"]
        self.connection.execute("BEGIN")
        self.transact(setup, _START_US)

    def compare(self, edges: Edges) -> None:
        """Make every change of `edges` once, and fail at the first that ends or answers otherwise than the model's."""
        following: dict[Store, list[tuple[Any, Store, Any]]] = defaultdict(list)
        for (before, event), (after, results) in edges.items():
            following[before].append((event, after, results))
        seen = {self.initial}
        assert self.seen_as(_START_US) == self.initial
        # (now, by how much the clock is set next, changes not yet made): what is below the top is a savepoint away
        path = [(_START_US, _JUMP_US, iter(following[self.initial]))]
        while path:
            now_us, jump_us, changes = path[-1]
            change = next(changes, None)
            if change is None:
                path.pop()
                if path:
                    self.back()
                continue
            event, after, results = change
            self.connection.execute("SAVEPOINT step")
            then_us = self.change(event, results, now_us, jump_us)
            found = self.seen_as(then_us)
            assert found == after, f"{event} leads to\n{found}, in the model to\n{after}"
            self.compared += 1
            if after in seen:
                self.back()
            else:
                seen.add(after)
                next_us = 3 * jump_us if event[0] == "jump" else jump_us  # further than all before it together
                path.append((then_us, next_us, iter(following[after])))
        assert seen == {self.initial, *(before for before, _ in edges), *(after for after, _ in edges.values())}

    def back(self) -> None:
        self.connection.execute("ROLLBACK TO step")
        self.connection.execute("RELEASE step")

    def change(self, event: Any, results: tuple[Result, ...], now_us: int, jump_us: int) -> int:
        """Let it happen; returns what time it is then."""
        match event:
            case ("jump", forward):
                return now_us + (jump_us if forward else -jump_us)
            case ("pass", renewed):
                self.transact([Renew(str(holder), LEASE_US) for holder in renewed], now_us + LEASE_US)
                return now_us + LEASE_US
            case (ops, holder):
                answers = self.transact([self.operation(op, holder) for op in ops], now_us)
                plain = tuple(map(_plain, answers))
                assert plain == results, f"{ops} is answered {plain}, in the model {results}"
                return now_us
        raise AssertionError(event)

    def transact(self, operations: list[Operation], now_us: int) -> list[Any]:
        book = Book(LedgerTables(self.connection.execute), now_us, set())
        answers = apply_all(book, operations)
        book.write()
        return answers

    def operation(self, op: Op, holder: int) -> Operation:
        g, spec, name = op.generation, self.generations[op.generation], f"g{op.generation}"
        match op.kind:
            case "open":
                return OpenHold(name, ACCOUNT, KEY, spec.wanted * CREDIT, spec.least * CREDIT, str(holder))
            case "extend":
                return ExtendHold(name, op.amount * CREDIT, op.amount * CREDIT)
            case "settle":
                return settlement(name, op.amount * CREDIT if op.amount else None)
            case "release":
                return ReleaseHold(name)
            case "renew":
                return Renew(str(holder), LEASE_US)
            case "expire":
                return Expire(LEASE_US)
            case "grant":
                return self.grant(GRANT, "grant")
            case "refund":
                return Transfer(
                    kind="refund", account=ACCOUNT, amount_nano=op.amount * CREDIT, reason="", author="",
                    generation_id=f"g{g}",
                )  # fmt: skip

    def grant(self, amount: int, key: str) -> Transfer:
        return Transfer(
            kind="grant", account=ACCOUNT, amount_nano=amount * CREDIT, reason="", author="", idempotency_key=key
        )

    def seen_as(self, now_us: int) -> Store:
        """The rows of the database as the model would have them."""
        rows = self.connection.execute
        accounts = {
            name: (balance, held) for name, balance, held in rows("SELECT name, balance_nano, held_nano FROM accounts")
        }
        balance, held = accounts[ACCOUNT]
        posted = {
            (kind, generation): nano
            for kind, generation, nano in rows(
                "SELECT kind, generation_id, sum(amount_nano) FROM entries GROUP BY 1, 2"
            )
        }
        holds = {
            name: self.hold(row, now_us)
            for name, *row in rows(
                "SELECT generation_id, state, amount_nano, holder, opened_at_us, closed_at_us FROM holds"
            )
        }
        costs = dict(rows("SELECT id, cost_nano FROM generations"))
        leases = {
            int(holder): _lease(until, now_us) for holder, until in rows("SELECT id, lease_until_us FROM holders")
        }
        names = [f"g{g}" for g in range(len(self.generations))]
        return Store(
            balance=balance // CREDIT,
            held=held // CREDIT,
            revenue=accounts.get("@revenue", (0, 0))[0] // CREDIT,
            promotions=accounts["@promotions"][0] // CREDIT,
            holds=tuple(holds.get(name) for name in names),
            charges=tuple(
                (
                    Charge(
                        *(
                            nano // CREDIT
                            for nano in (costs[name], posted.get(("charge", name), 0), posted.get(("overrun", name), 0))
                        )
                    ),
                )
                if name in costs
                else ()
                for name in names
            ),
            refunds=tuple(posted.get(("refund", name), 0) // CREDIT for name in names),
            leases=tuple(leases.get(holder, "absent") for holder in range(len(self.initial.leases))),
            grants=rows("SELECT count(*) FROM entries WHERE idempotency_key = 'grant'").fetchone()[0],
        )

    def hold(self, row: list[Any], now_us: int) -> Hold:
        state, nano, holder, opened_us, closed_us = row
        old = state == "open" and (opened_us <= now_us - LEASE_US or opened_us > now_us)
        return Hold(state, nano // CREDIT, int(holder), old, int(closed_us is not None))

    def close(self) -> None:
        self.connection.close()


def _lease(until_us: int, now_us: int) -> Lease:
    if until_us <= now_us:
        return "lapsed"
    return "valid" if until_us <= now_us + LEASE_US else "far"


def _plain(answer: Any) -> Result:
    match answer:
        case XRouterError():
            return REFUSED
        case HoldGranted(amount, payable):
            return ("granted", amount // CREDIT, payable // CREDIT)
        case Settled():
            return ("settled", answer.charged_nano // CREDIT, answer.overrun_nano // CREDIT, answer.repeated)
        case Balance():
            return ("balance", answer.balance_nano // CREDIT)
        case int() | None:
            return answer
    raise AssertionError(answer)
