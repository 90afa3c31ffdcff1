"""The ledger against its model. The long run is `python tests/ledger/long_walk.py`; docs/money.md records one."""

import asyncio
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kit.ledger_walk import ACCOUNTS, HOLDERS, KEYS, LEASE_US, Fate, Walk, random_walk
from kit.money import settlement

from xrouter.ledger.operations import Expire, ExtendHold, OpenHold, Operation, ReleaseHold, Renew, Transfer
from xrouter.ledger.proof import prove
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
generations = st.integers(0, 12).map("g{}".format)
fates = st.sampled_from(["commit"] * 8 + ["crash", "answer lost"])


class LedgerMachine(RuleBasedStateMachine):
    """Operations gather in a batch that a later step commits, kills, or commits and forgets to answer."""

    template: Path

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "walk.db"
        shutil.copy(self.template, self.path)
        self.walk = Walk(self.path)
        self.waiting: list[Operation] = []
        self.owners: dict[str, tuple[str, str]] = {}

    def owner(self, generation: str, account: str, key: str) -> tuple[str, str]:
        return self.owners.setdefault(generation, (account, key))

    @rule(g=generations, a=st.sampled_from(ACCOUNTS), k=st.sampled_from(list(KEYS)), wanted=amounts, least=amounts)
    def hold(self, g: str, a: str, k: str, wanted: int, least: int) -> None:
        a, k = self.owner(g, a, k)
        self.waiting.append(OpenHold(g, a, k, wanted, min(least, wanted), HOLDERS[0]))

    @rule(g=generations, more=amounts, least=amounts)
    def extend(self, g: str, more: int, least: int) -> None:
        self.waiting.append(ExtendHold(g, more, min(more, least)))

    @rule(g=generations, a=st.sampled_from(ACCOUNTS), k=st.sampled_from(list(KEYS)), cost=st.none() | amounts)
    def settle(self, g: str, a: str, k: str, cost: int | None) -> None:
        a, k = self.owner(g, a, k)
        self.waiting.append(settlement(g, cost, account=a, key=k))

    @rule(g=generations)
    def release(self, g: str) -> None:
        self.waiting.append(ReleaseHold(g))

    @rule(a=st.sampled_from(ACCOUNTS), nano=st.integers(1, 30_000), name=st.sampled_from(["n1", "n2", "n3"]))
    def grant(self, a: str, nano: int, name: str) -> None:
        grant = Transfer(kind="grant", account=a, amount_nano=nano, reason="", author="", idempotency_key=name)
        self.waiting.append(grant)

    @rule(g=generations, a=st.sampled_from(ACCOUNTS), nano=st.integers(1, 6000), name=st.uuids())
    def refund(self, g: str, a: str, nano: int, name: object) -> None:
        self.waiting.append(
            Transfer(
                kind="refund",
                account=a,
                amount_nano=nano,
                reason="",
                author="",
                generation_id=g,
                idempotency_key=str(name),
            )
        )

    @rule(holder=st.sampled_from(HOLDERS))
    def renew(self, holder: str) -> None:
        self.waiting.append(Renew(holder, LEASE_US))

    @rule()
    def expire(self) -> None:
        self.flush("commit", 0)
        self.walk.batch([Expire(LEASE_US)])

    @rule(seconds=st.sampled_from([0, 1, 61, 86_400, -61, -86_400]))
    def clock(self, seconds: int) -> None:
        self.flush("commit", 0)
        self.walk.model.now_us += seconds * 1_000_000

    @precondition(lambda self: self.waiting)
    @rule(fate=fates, crash_at=st.integers(0, 20))
    def flush(self, fate: Fate, crash_at: int) -> None:
        self.walk.batch(self.waiting, fate, crash_at)
        self.waiting = []

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


def test_the_ledger_does_what_its_model_does(template: Path) -> None:
    """Shown to fail when the overrun ignores other holds and when `roll` follows a clock that goes back."""
    machine = type("Machine", (LedgerMachine,), {"template": template}).TestCase
    machine.settings = settings(
        max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    machine("runTest").runTest()


def test_random_walks_replay_from_a_seed(template: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    path = tmp_path / "walk.db"
    shutil.copy(template, path)
    walk = Walk(path)
    try:
        random_walk(walk, seed, 6_000)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    finally:
        walk.close()
    assert asyncio.run(_problems(path)) == ()
