"""The ledger walked beside a model of it that is too simple to be wrong, over batches, crashes and lost answers.

`Walk` drives the production rules and SQL on a real database, one transaction a batch, as the ledger's writer does. The
model keeps only what the rules' text says: balances, holds and charges in dictionaries, every sum taken anew.
"""

import random
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

from kit.money import settlement

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
    Settlement,
    Transfer,
)
from xrouter.store.ledger import LedgerTables
from xrouter.store.remembered import Remembered

LEASE_US = 60_000_000
ACCOUNTS = ("ann", "bob")
KEYS = {"k-free": (None, None), "k-total": (40_000, None), "k-daily": (30_000, "daily"), "k-month": (50_000, "monthly")}
HOLDERS = ("p1", "p2")
Fate = Literal["commit", "crash", "answer lost"]


@dataclass
class ModelHold:
    account: str
    key: str
    amount: int
    holder: str
    opened_us: int
    state: str = "open"


@dataclass
class ModelCharge:
    account: str
    key: str
    day: int
    charged: int
    overrun: int
    refunded: int = 0


@dataclass
class Model:
    """What should be so. `answer` says what an operation must be answered with: `None` means refused."""

    now_us: int = 0
    balance: dict[str, int] = field(default_factory=dict)
    holds: dict[str, ModelHold] = field(default_factory=dict)
    charges: dict[str, ModelCharge] = field(default_factory=dict)
    named: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    key_day: dict[str, int] = field(default_factory=dict)

    def held(self, *, account: str | None = None, key: str | None = None) -> int:
        return sum(
            hold.amount
            for hold in self.holds.values()
            if hold.state == "open" and account in (None, hold.account) and key in (None, hold.key)
        )

    def left(self, account: str, key: str) -> int:
        left = self.balance.get(account, 0) - self.held(account=account)
        limit, reset = KEYS[key]
        if limit is not None:
            today = self.key_day[key]
            spent = sum(
                charge.charged
                for charge in self.charges.values()
                if charge.key == key
                and (
                    reset is None
                    or (reset == "daily" and charge.day == today)
                    or (reset == "monthly" and _month(charge.day) == _month(today))
                )
            )
            left = min(left, limit - spent - self.held(key=key))
        return left

    def answer(self, operation: Operation) -> Any:
        match operation:
            case OpenHold(generation, account, key, wanted, least, holder):
                self.touch(key)
                left = self.left(account, key)
                if generation in self.holds:
                    hold = self.holds[generation]
                    return (hold.amount, hold.amount + max(0, left)) if hold.state == "open" else None
                amount = min(wanted, left)
                if generation in self.charges or amount < least or left < 0:
                    return None
                self.holds[generation] = ModelHold(account, key, amount, holder, self.now_us)
                return (amount, left)
            case ExtendHold(generation, more, least):
                hold = self.holds.get(generation)
                if hold is None or hold.state != "open":
                    return None
                self.touch(hold.key)
                left = self.left(hold.account, hold.key)
                more = min(more, left)
                if more < least or more < 0:
                    return None
                hold.amount += more
                return (hold.amount, hold.amount + left - more)
            case ReleaseHold(generation):
                self.close(generation, "released")
                return "done"
            case Settlement():
                return self.settle(operation)
            case Transfer():
                return self.transfer(operation)
            case Renew(holder, lease):
                self.leases[holder] = self.now_us + lease
                return "done"
            case Expire(lease):
                self.leases = {holder: min(until, self.now_us + lease) for holder, until in self.leases.items()}
                dead = [one for one, hold in self.holds.items() if hold.state == "open" and self.is_dead(hold, lease)]
                for generation in dead:
                    self.close(generation, "expired")
                if not dead:
                    living = {hold.holder for hold in self.holds.values() if hold.state == "open"}
                    self.leases = {
                        one: until for one, until in self.leases.items() if until > self.now_us or one in living
                    }
                return len(dead)

    def is_dead(self, hold: ModelHold, lease_us: int) -> bool:
        until = self.leases.get(hold.holder)
        if until is None:
            return hold.opened_us <= self.now_us - lease_us or hold.opened_us > self.now_us
        return until <= self.now_us

    def settle(self, end: Settlement) -> Any:
        before = self.charges.get(end.generation_id)
        if before is not None:
            return (before.charged, before.overrun, True)
        self.touch(end.key_hash)
        hold = self.holds.get(end.generation_id)
        held = hold.amount if hold is not None and hold.state == "open" else 0
        self.close(end.generation_id, "released" if end.input_tokens is None else "settled")
        covered = min(end.cost_nano, held)
        left = self.balance.get(end.account, 0) - self.held(account=end.account) - covered
        overrun = max(0, min(end.cost_nano - covered, left)) if covered < end.cost_nano else 0
        self.balance[end.account] = self.balance.get(end.account, 0) - covered - overrun
        day = self.key_day[end.key_hash]
        self.charges[end.generation_id] = ModelCharge(end.account, end.key_hash, day, covered + overrun, overrun)
        return (covered + overrun, overrun, False)

    def transfer(self, wanted: Transfer) -> Any:
        if wanted.idempotency_key is not None and wanted.idempotency_key in self.named:
            same = self.named[wanted.idempotency_key] == (wanted.kind, wanted.account, wanted.amount_nano)
            return self.balance.get(wanted.account, 0) if same else None
        if wanted.kind == "refund":
            charge = self.charges.get(wanted.generation_id or "")
            if charge is None or charge.account != wanted.account:
                return None
            if charge.refunded + wanted.amount_nano > charge.charged:
                return None
            charge.refunded += wanted.amount_nano
        if wanted.idempotency_key is not None:
            self.named[wanted.idempotency_key] = (wanted.kind, wanted.account, wanted.amount_nano)
        self.balance[wanted.account] = self.balance.get(wanted.account, 0) + wanted.amount_nano
        return self.balance[wanted.account]

    def close(self, generation: str, state: str) -> None:
        hold = self.holds.get(generation)
        if hold is not None and hold.state == "open":
            self.touch(hold.key)
            hold.state = state

    def touch(self, key: str) -> None:
        self.key_day[key] = max(self.key_day.get(key, 0), self.now_us // 86_400_000_000)


class Crash(Exception):
    """The process is killed here."""


class Writer:
    """What a process keeps from one transaction to the next."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        # The process is not killed for real, and the disk is not asked.
        self.connection.execute("PRAGMA synchronous=OFF")
        self.remembered = Remembered()
        self.seen_prices: set[str] = set()


class Walk:
    """The ledger and its model, side by side. `path`: a fresh database with this program's schema.

    Two processes write in turns, three batches each: what one remembers is now right and now out of date.
    """

    def __init__(self, path: Path) -> None:
        self.writers = (Writer(path), Writer(path))
        self.connection = self.writers[0].connection
        for key, (limit, reset) in KEYS.items():
            self.connection.execute(
                "INSERT INTO api_keys (hash, label, name, account, limit_nano, limit_reset, management, disabled,"
                " created_at_us) VALUES (?, '', '', '', ?, ?, 0, 0, 0)",
                (key, limit, reset),
            )
        self.model = Model(now_us=1_800_000_000_000_000)
        self.operations = 0
        self.batches = 0

    def batch(self, operations: Sequence[Operation], fate: Fate = "commit", crash_at: int = 0) -> None:
        """One transaction. After a crash nothing has happened; after a lost answer everything is sent again."""
        if fate == "crash":
            self._transact(operations, crash_at)
            return
        for _ in range(2 if fate == "answer lost" else 1):
            results = self._transact(operations, None)
            assert results is not None
            for operation, result in zip(operations, results, strict=True):
                expected = self.model.answer(operation)
                assert _plain(result) == expected, f"{operation} gives {result}, the model {expected}"
            self.operations += len(operations)

    def _transact(self, operations: Sequence[Operation], crash_at: int | None) -> list[Any] | None:
        """Kills itself before the statement number `crash_at` that follows BEGIN."""
        left = crash_at

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def execute(sql: str, rows: Any) -> Any:
                nonlocal left
                if left is not None:
                    left -= 1
                    if left < 0:
                        raise Crash
                return call(sql, rows)

            return execute

        writer = self.writers[self.batches // 3 % 2]
        self.batches += 1
        writer.connection.execute("BEGIN IMMEDIATE")
        try:
            tables = LedgerTables(counted(writer.connection.execute), writer.remembered)
            book = Book(tables, self.model.now_us, writer.seen_prices)
            results = apply_all(book, list(operations))
            book.write()
            if crash_at is not None:
                raise Crash
            writer.connection.execute("COMMIT")
            book.stored()
        except Crash:
            writer.connection.execute("ROLLBACK")
            writer.remembered = Remembered()
            return None
        return results

    def compare(self) -> None:
        """The database says what the model says."""
        rows = self.connection.execute
        model = self.model
        for account, balance, held in rows("SELECT name, balance_nano, held_nano FROM accounts WHERE kind = 'owner'"):
            assert (balance, held) == (model.balance.get(account, 0), model.held(account=account)), account
        holds = {row[0]: row[1:] for row in rows("SELECT generation_id, state, amount_nano FROM holds")}
        assert holds == {generation: (hold.state, hold.amount) for generation, hold in model.holds.items()}
        charges = {row[0]: row[1:] for row in rows("SELECT id, charged_nano, overrun_nano FROM generations")}
        assert charges == {one: (charge.charged, charge.overrun) for one, charge in model.charges.items()}
        (total,) = rows("SELECT sum(balance_nano) FROM accounts").fetchone()
        assert total == 0

    def close(self) -> None:
        for writer in self.writers:
            writer.connection.close()


def random_operation(chance: random.Random, newest: int) -> Operation:
    """Any operation, mostly about recent generations, so that ids collide and ends meet."""
    number = max(0, newest - int(chance.expovariate(0.2)))
    generation = f"g{number}"
    account, key = ACCOUNTS[number % len(ACCOUNTS)], list(KEYS)[number // len(ACCOUNTS) % len(KEYS)]
    amount = chance.choice((0, 1000, 2000, 5000, 12_000))
    match chance.randrange(16):
        case 0 | 1 | 2 | 3:
            return OpenHold(generation, account, key, amount, chance.choice((0, 1000, amount)), chance.choice(HOLDERS))
        case 4:
            return ExtendHold(generation, amount, chance.choice((0, 1, amount)))
        case 5 | 6 | 7 | 8:
            return settlement(generation, chance.choice((None, amount)), account=account, key=key)
        case 9:
            return ReleaseHold(generation)
        case 10 | 11:
            name = chance.choice((None, f"grant{chance.randrange(newest + 5)}"))
            return Transfer(
                kind="grant", account=account, amount_nano=amount + 1, reason="", author="", idempotency_key=name
            )
        case 12:
            return Transfer(
                kind="refund", account=account, amount_nano=amount + 1, reason="", author="", generation_id=generation
            )
        case 13:
            sign = chance.choice((1, -1))
            return Transfer(kind="adjustment", account=account, amount_nano=sign * (amount + 1), reason="", author="")
        case 14:
            return Renew(chance.choice(HOLDERS), LEASE_US)
        case _:
            return Expire(LEASE_US)


def random_walk(walk: Walk, seed: int, operations: int, compare_each: int = 1000) -> None:
    """Replays from `seed`."""
    chance = random.Random(seed)
    compared = 0
    while walk.operations < operations:
        newest = walk.operations // 6
        batch = [random_operation(chance, newest) for _ in range(chance.choice((1, 1, 2, 5, 20)))]
        if sweep := [one for one in batch if isinstance(one, Expire)]:
            batch = sweep[:1]  # it sees what was committed before its batch, and the model has no batches
        fate: Fate = chance.choices(("commit", "crash", "answer lost"), (90, 8, 2))[0]  # type: ignore[assignment]
        if fate == "answer lost":  # what has no name of its own is not sent again by the ledger
            batch = [one for one in batch if not isinstance(one, Transfer) or one.idempotency_key is not None]
        walk.batch(batch, fate, chance.randrange(30))
        walk.model.now_us += chance.choice((0, 1000, 1_000_000, 30_000_000, 3_600_000_000, -30_000_000))
        if walk.operations - compared >= compare_each:
            compared = walk.operations
            walk.compare()
    walk.compare()


def _plain(result: Any) -> Any:
    match result:
        case XRouterError():
            return None
        case HoldGranted(amount, payable):
            return (amount, payable)
        case Settled():
            return (result.charged_nano, result.overrun_nano, result.repeated)
        case Balance():
            return result.balance_nano
        case None:
            return "done"
        case _:
            return result


def _month(day: int) -> tuple[int, int]:
    on = date.fromordinal(date(1970, 1, 1).toordinal() + day)
    return on.year, on.month
