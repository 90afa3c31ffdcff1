"""The ledger against its model. The long run is `python tests/ledger/long_walk.py`; docs/money.md records one."""

import asyncio
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kit.ledger_walk import ACCOUNTS, HOLDERS, KEYS, LEASE_US, Fate, Walk, random_walk
from kit.money import settlement

from xrouter.ledger.book import Book
from xrouter.ledger.operations import (
    Expire,
    ExtendHold,
    OpenHold,
    Operation,
    ReleaseHold,
    Renew,
    Settled,
    Settlement,
    Transfer,
)
from xrouter.ledger.proof import prove
from xrouter.store.ledger import LedgerTables
from xrouter.store.ledger_rows import Account
from xrouter.store.migrate import open_store


async def _fresh(path: Path) -> None:
    await (await open_store(f"sqlite:///{path}")).dispose()


async def _problems(path: Path) -> tuple[str, ...]:
    engine = await open_store(f"sqlite:///{path}")
    try:
        return (await prove(engine)).problems
    finally:
        await engine.dispose()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("walk") / "fresh.db"
    asyncio.run(_fresh(path))
    return path


amounts = st.sampled_from([0, 1000, 2000, 5000, 12_000])
fates = st.sampled_from(["commit"] * 8 + ["crash", "answer lost"])
Draw = Callable[[st.SearchStrategy[Any]], Any]
KINDS = ["hold", "settle", "release", "lease passes"] * 2 + [
    "hold again", "extend", "settle without hold", "grant", "refund", "refund", "renew", "clock",
]  # fmt: skip


class LedgerMachine(RuleBasedStateMachine):
    """Operations gather in a batch that a later step commits, kills, or commits and forgets to answer.

    All of them are one rule. Of rules, Hypothesis leaves some out of each run; when a hold, the lapse of its lease, its
    expiry and its settlement were four, with credits granted by a fifth, no run ever settled what had expired. Besides, an
    operation is about a recent generation, and the accounts have credits from the start.
    """

    template: Path

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "walk.db"
        shutil.copy(self.template, self.path)
        self.walk = Walk(self.path)
        self.waiting: list[Operation] = []
        self.owners: dict[str, tuple[str, str]] = {}
        self.transfers = 0
        for account in ACCOUNTS:
            self.transfer("grant", account, 60_000, f"opening {account}")
        self.commit()

    @rule(kind=st.sampled_from(KINDS), data=st.data())
    def operate(self, kind: str, data: st.DataObject) -> None:
        draw = data.draw
        match kind:
            case "hold":
                g, account, key = self.new(draw)
                wanted = draw(amounts)
                self.waiting.append(OpenHold(g, account, key, wanted, draw(st.sampled_from([0, wanted])), HOLDERS[0]))
            case "hold again" if self.owners:
                g, account, key = self.recent(draw)
                self.waiting.append(OpenHold(g, account, key, draw(amounts), 0, HOLDERS[1]))
            case "extend" if self.owners:
                more = draw(amounts)
                self.waiting.append(ExtendHold(self.recent(draw)[0], more, draw(st.sampled_from([0, more]))))
            case "settle" | "settle without hold":
                g, account, key = self.new(draw) if kind != "settle" or not self.owners else self.recent(draw)
                self.waiting.append(settlement(g, draw(st.none() | amounts), account=account, key=key))
            case "release" if self.owners:
                self.waiting.append(ReleaseHold(self.recent(draw)[0]))
            case "grant":
                account, name = draw(st.sampled_from(ACCOUNTS)), draw(st.sampled_from(["n1", "n2", "n3"]))
                self.transfer("grant", account, draw(st.sampled_from([1, 30_000])), name)
            case "refund" if self.owners:
                g, account, _ = self.recent(draw)
                self.transfers += 1
                whole = max(1, charge.charged) if (charge := self.walk.model.charges.get(g)) else 1000
                other = draw(st.sampled_from([account, account, *ACCOUNTS]))
                self.transfer("refund", other, draw(st.sampled_from([1, whole, whole])), f"r{self.transfers}", g)
            case "renew":
                self.waiting.append(Renew(draw(st.sampled_from(HOLDERS)), LEASE_US))
            case "clock":
                self.pass_time(draw(st.sampled_from([0, 1, 61, 86_400, -61, -86_400])))
            case "lease passes":
                self.pass_time(61)
                self.walk.batch([Expire(LEASE_US)])

    @precondition(lambda self: self.waiting)
    @rule(fate=fates, crash_at=st.integers(0, 20))
    def end_batch(self, fate: Fate, crash_at: int) -> None:
        self.walk.batch(self.waiting, fate, crash_at)
        self.waiting = []

    def new(self, draw: Draw) -> tuple[str, str, str]:
        g = f"g{len(self.owners)}"
        self.owners[g] = draw(st.sampled_from(ACCOUNTS)), draw(st.sampled_from(list(KEYS)))
        return g, *self.owners[g]

    def recent(self, draw: Draw) -> tuple[str, str, str]:
        g = draw(st.sampled_from(list(self.owners)[-3:]))
        return g, *self.owners[g]

    def transfer(
        self, kind: Literal["grant", "refund"], account: str, nano: int, key: str, g: str | None = None
    ) -> None:
        self.waiting.append(
            Transfer(
                kind=kind, account=account, amount_nano=nano, reason="", author="", idempotency_key=key, generation_id=g
            )
        )

    def commit(self) -> None:
        self.walk.batch(self.waiting)
        self.waiting = []

    def pass_time(self, seconds: int) -> None:
        self.commit()
        self.walk.model.now_us += seconds * 1_000_000

    @invariant()
    def database_and_model_agree(self) -> None:
        if hasattr(self, "walk"):
            self.walk.compare()

    def teardown(self) -> None:
        if hasattr(self, "walk"):
            self.walk.close()
            problems = asyncio.run(_problems(self.path))
            shutil.rmtree(self.folder)
            assert problems == ()


def run_machine(template: Path, **how: Any) -> None:
    machine = type("Machine", (LedgerMachine,), {"template": template}).TestCase
    machine.settings = settings(
        stateful_step_count=40, deadline=None, database=None, suppress_health_check=list(HealthCheck), **how
    )
    machine("runTest").runTest()


def test_the_ledger_does_what_its_model_does(template: Path) -> None:
    run_machine(template, max_examples=40)


def expired_is_charged(patch: pytest.MonkeyPatch) -> None:
    """What has expired is charged as if it were still held."""
    settle = Book._settle

    def settled(self: Book, end: Settlement) -> Settled:
        hold = self._hold(end.generation_id)
        if hold is not None and hold.state == "expired" and not self._generation(end.generation_id):
            self._account_or_empty(hold.account).held_nano += hold.amount_nano
            self._key(hold.key_hash).held_nano += hold.amount_nano
            hold.state = "open"
        return settle(self, end)

    patch.setattr(Book, "_settle", settled)


def settled_twice(patch: pytest.MonkeyPatch) -> None:
    """A settlement is not looked up before it is made."""
    patch.setattr(Book, "_generation", lambda *_: None)


def others_holds_ignored(patch: pytest.MonkeyPatch) -> None:
    """An overrun takes what is held by others."""
    patch.setattr(Account, "available_nano", property(lambda self: self.balance_nano - self.floor_nano))


def refunded_twice(patch: pytest.MonkeyPatch) -> None:
    """A refund does not count those before it."""
    patch.setattr(LedgerTables, "refunded_nano", lambda *_: 0)


def released_twice(patch: pytest.MonkeyPatch) -> None:
    """A hold is released whatever its state is."""

    def release(self: Book, operation: ReleaseHold) -> None:
        if hold := self._hold(operation.generation_id):
            self._close(hold, "released")

    patch.setattr(Book, "_release", release)


@pytest.mark.parametrize(
    "plant",
    [expired_is_charged, settled_twice, others_holds_ignored, refunded_twice, released_twice],
)
def test_the_machine_finds_what_is_planted(
    template: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Always the same examples, so that whether they find it is no matter of luck; any others do as well."""
    plant(monkeypatch)
    with pytest.raises((AssertionError, sqlite3.IntegrityError)):
        run_machine(template, max_examples=60, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False)


def test_random_walks_replay_from_a_seed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    seed = random.SystemRandom().randrange(2**32)
    path = tmp_path_factory.mktemp("random") / "walk.db"
    shutil.copy(template, path)
    walk = Walk(path)
    try:
        random_walk(walk, seed, 6_000)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    finally:
        walk.close()
    assert asyncio.run(_problems(path)) == ()
