"""Inference requests under an `Idempotency-Key`, each a claim: one generation's id, the only one that may be charged.

A claim passes to another generation only in a transaction that has seen its own one settled for nothing. A generation is
settled once, so whatever its process still does, it charges nothing. `xrouter.ledger.idempotent` has the whole argument.
"""

from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Executable, delete, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from xrouter.store.batches import Batches, Work
from xrouter.store.engine import writing
from xrouter.store.idempotency import LIFETIME_US
from xrouter.store.schema import generations, holders
from xrouter.store.schema import idempotent_requests as table

_T = TypeVar("_T")
_AT_ONCE: Final = 200  # rows that are dropped in one transaction


@dataclass(frozen=True, slots=True)
class Claim:
    """`owner` and `name_digest` (SHA-256, hex, of the Idempotency-Key) name it; `request_digest` is of endpoint and body."""

    owner: str
    name_digest: str
    request_digest: str
    generation_id: str
    holder: str
    created_at_us: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A claim that somebody has. `settled`: its generation is complete or charged. `holder_lives`: by its lease."""

    request_digest: str
    generation_id: str
    holder: str
    sealed: str | None
    settled: bool
    holder_lives: bool


class Claims:
    """The claims of one store. Raises what the database raises."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._batches = Batches(engine) if engine.dialect.name == "sqlite" else None

    async def aclose(self) -> None:
        if self._batches is not None:
            await self._batches.aclose()

    async def take(self, wanted: Claim) -> Taken | None:
        """Take the claim: None. Or whoever has it. It is free once its generation is settled for nothing, or after a day."""

        async def work(connection: AsyncConnection) -> Taken | None:
            found = await _find(connection, wanted)
            if isinstance(found, Taken):
                return found
            if found:
                await connection.execute(delete(table).where(_named(wanted)))
            await connection.execute(insert(table).values({name: getattr(wanted, name) for name in Claim.__slots__}))
            return None

        return await self._write(wanted, work)

    async def keep_answer(self, claim: Claim, sealed: str) -> None:
        """The answer to give to whoever asks again."""
        await self._execute(claim, update(table).where(_held(claim)).values(sealed=sealed))

    async def give_up(self, claim: Claim) -> None:
        """Forget a claim whose generation is certain to be charged nothing."""
        await self._execute(claim, delete(table).where(_held(claim)))

    async def give_up_if_free(self, claim: Claim) -> None:
        """Forget a claim if its generation has been settled for nothing."""
        free = exists().where(
            generations.c.id == claim.generation_id,
            generations.c.charged_nano == 0,
            generations.c.outcome != "complete",
        )
        await self._execute(claim, delete(table).where(_held(claim), free))

    async def _execute(self, claim: Claim, statement: Executable) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(statement)

        await self._write(claim, work)

    async def _write(self, claim: Claim, work: Work[_T]) -> _T:
        if self._batches is not None:
            return await self._batches.run(work)
        async with writing(self._engine, turn=_turn(claim)) as connection:
            return await work(connection)


async def drop_old(engine: AsyncEngine, now_us: int) -> int:
    """Drop some claims that are older than a day; returns how many: fewer than there may be at once when none is left."""
    old = (
        select(table.c.owner, table.c.name_digest).where(table.c.created_at_us <= now_us - LIFETIME_US).limit(_AT_ONCE)
    )
    async with writing(engine) as connection:
        rows = (await connection.execute(old)).all()
        for owner, name_digest in rows:
            await connection.execute(
                delete(table).where(
                    table.c.owner == owner,
                    table.c.name_digest == name_digest,
                    table.c.created_at_us <= now_us - LIFETIME_US,
                )
            )
    return len(rows)


async def _find(connection: AsyncConnection, wanted: Claim) -> Taken | bool:
    """Who has the claim; True for one that is there and free; False for none."""
    query = (
        select(table, generations.c.charged_nano, generations.c.outcome, holders.c.lease_until_us)
        .outerjoin(generations, generations.c.id == table.c.generation_id)
        .outerjoin(holders, holders.c.id == table.c.holder)
        .where(_named(wanted))
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return False
    if row.created_at_us <= wanted.created_at_us - LIFETIME_US:
        return True
    settled = row.outcome is not None and (row.outcome == "complete" or row.charged_nano > 0)
    if row.outcome is not None and not settled:
        return True
    lives = row.holder == wanted.holder or (row.lease_until_us or 0) > wanted.created_at_us
    return Taken(row.request_digest, row.generation_id, row.holder, row.sealed, settled, lives)


def _named(claim: Claim) -> Any:
    return (table.c.owner == claim.owner) & (table.c.name_digest == claim.name_digest)


def _held(claim: Claim) -> Any:
    return _named(claim) & (table.c.generation_id == claim.generation_id)


def _turn(claim: Claim) -> int:
    """Writers of one name take turns; others do not wait for them. 63 bits, as PostgreSQL's advisory locks have."""
    return int(claim.name_digest[:16], 16) >> 1
