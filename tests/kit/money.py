"""For tests that touch money: a real ledger on a fresh database, settlements to make, and the proof at the end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from kit import stores
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.config.settings import Price
from xrouter.ledger.direct import apply_once
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.opening import open_ledger
from xrouter.ledger.operations import Settlement, Transfer
from xrouter.ledger.prices import PricedModel
from xrouter.ledger.proof import prove
from xrouter.store.accounts import Accounts, AccountView
from xrouter.store.migrate import open_store
from xrouter.world import RealWorld, World

NANO_A_TOKEN = 1000
PRICE = PricedModel.of("a/b", Price(input=Decimal("0.001"), output=Decimal("0.001"), per=1000))
COSTLY = PricedModel.of(
    "a/b", Price(input=Decimal("0.001"), cost=Price(input=Decimal("0.0005")), since="2026-02-01", per=1000)
)
ACCOUNT = "acme"
KEY = "k" * 64


def settlement(
    generation_id: str,
    cost_nano: int | None,
    *,
    account: str = ACCOUNT,
    key: str = KEY,
    price: PricedModel = PRICE,
    provider_cost_nano: int = 0,
) -> Settlement:
    """A settlement whose cost follows from its usage; `None`: nothing was generated. Costs are multiples of 1000 here."""
    tokens = None if cost_nano is None else cost_nano // NANO_A_TOKEN
    assert cost_nano is None or tokens is not None
    assert (tokens or 0) * NANO_A_TOKEN == (cost_nano or 0)
    return Settlement(
        generation_id=generation_id,
        account=account,
        key_hash=key,
        model="a/b",
        upstream="up",
        upstream_model="b",
        outcome="complete",
        rule="complete",
        finish_reason="stop",
        input_tokens=tokens,
        output_tokens=None if tokens is None else 0,
        cached_tokens=None,
        reasoning_tokens=None,
        usage_source="reported",
        images=0,
        price=price.version,
        cost_nano=cost_nano or 0,
        provider_cost_nano=provider_cost_nano,
        created_at_us=0,
        details="{}",
    )


def grant(amount_nano: int, account: str = ACCOUNT, key: str | None = None) -> Transfer:
    return Transfer(
        kind="grant", account=account, amount_nano=amount_nano, reason="test", author="test", idempotency_key=key
    )


@dataclass
class Money:
    """A ledger and what is beside it. `path` names its database (kit.stores)."""

    engine: AsyncEngine
    ledger: Ledger
    path: Path

    async def hold(self, generation_id: str, nano: int, *, least: int | None = None, key: str = KEY) -> int:
        granted = await self.ledger.hold(
            generation_id, ACCOUNT, key, wanted_nano=nano, least_nano=nano if least is None else least
        )
        return granted.amount_nano

    async def account(self, name: str = ACCOUNT) -> AccountView:
        view = await Accounts(self.engine).view(name)
        assert view is not None
        return view

    async def holds(self) -> dict[str, str]:
        return {row[0]: row[1] for row in self.rows("SELECT generation_id, state FROM holds")}

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return stores.rows(stores.current.url(self.path), sql)

    def spoil(self, sql: str) -> None:
        """Change rows behind the ledger's back."""
        stores.execute(stores.current.url(self.path), sql)


async def assert_proven(engine: AsyncEngine) -> None:
    """Invariants I1 to I8, from the rows."""
    proof = await prove(engine)
    assert proof.problems == ()
    assert await Accounts(engine).imbalance_nano() == 0
    async with engine.connect() as connection:
        below = await connection.exec_driver_sql(
            "SELECT name FROM accounts WHERE kind = 'owner' AND balance_nano - held_nano < floor_nano"
        )
        assert below.fetchall() == []  # I4, where nobody has taken credits away by an adjustment


@asynccontextmanager
async def money(
    folder: Path, world: World, *, lease_s: float = 60.0, start: bool = True, name: str = "money.db"
) -> AsyncIterator[Money]:
    """A ledger that is closed, and proven, at the end of the block."""
    path = folder / name
    engine = await open_store(stores.current.url(path))
    ledger = open_ledger(engine, world, lease_s=lease_s, journal=folder / f"{name}.journal")
    try:
        if start:
            await ledger.start()
        yield Money(engine, ledger, path)
        await ledger.aclose()
        await assert_proven(engine)
    finally:
        await engine.dispose()


async def adjust(store: str, nano: int, account: str = "tests") -> None:
    """Change the balance of an account in the database `store`, a URL."""
    engine = await open_store(store)
    transfer = Transfer(kind="adjustment", account=account, amount_nano=nano, reason="test", author="test")
    await apply_once(engine, RealWorld(), transfer)
    await engine.dispose()


async def problems(store: str) -> tuple[str, ...]:
    """What is wrong in the ledger of the database `store`."""
    engine = await open_store(store)
    found = (await prove(engine)).problems
    await engine.dispose()
    return found
