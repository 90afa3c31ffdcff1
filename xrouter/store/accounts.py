"""What accounts have: read-only views of the ledger. Each method reads one consistent state."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.store.schema import accounts, holds


@dataclass(frozen=True, slots=True)
class AccountView:
    """What is there, what is set aside of it, and how low it may go."""

    name: str
    balance_nano: int
    held_nano: int
    floor_nano: int

    @property
    def available_nano(self) -> int:
        return self.balance_nano - self.held_nano - self.floor_nano


class Accounts:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def view(self, name: str) -> AccountView | None:
        """One account; None if nothing was ever posted to it."""
        query = select(accounts.c.balance_nano, accounts.c.held_nano, accounts.c.floor_nano).where(
            accounts.c.name == name
        )
        async with self._engine.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else AccountView(name, *map(int, row))

    async def imbalance_nano(self) -> int:
        """0 as long as the ledger is right: what all balances together miss, and what holds and accounts disagree by."""
        balances = select(func.coalesce(func.sum(accounts.c.balance_nano), 0))
        held = select(func.coalesce(func.sum(accounts.c.held_nano), 0))
        opened = select(func.coalesce(func.sum(holds.c.amount_nano), 0)).where(holds.c.state == "open")
        async with self._engine.connect() as connection:
            query = select(balances.scalar_subquery(), held.scalar_subquery(), opened.scalar_subquery())
            total, in_accounts, in_holds = (await connection.execute(query)).one()
        return abs(int(total)) + abs(int(in_accounts) - int(in_holds))
