"""What was made under an `Idempotency-Key`, so that the same request again is answered with it and makes nothing.

A row is written in the transaction of what it stands for. The answer is sealed by whoever asks with a key that is not kept
here: a copy of the database opens none. After a day a row means nothing and is removed.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from xrouter.store.schema import idempotent_answers as table

LIFETIME_US: Final = 24 * 3600 * 1_000_000


@dataclass(frozen=True, slots=True)
class SealedAnswer:
    """`owner` and `name_digest` (SHA-256, hex, of the Idempotency-Key) identify it; `request_digest` is of the body.

    `subject` is what was made: a key's hash. `sealed` is a JWE.
    """

    owner: str
    name_digest: str
    request_digest: str
    subject: str
    sealed: str
    created_at_us: int


async def find(engine: AsyncEngine, owner: str, name_digest: str, now_us: int) -> SealedAnswer | None:
    columns = (table.c[name] for name in SealedAnswer.__slots__)
    query = select(*columns).where(
        table.c.owner == owner, table.c.name_digest == name_digest, table.c.created_at_us > now_us - LIFETIME_US
    )
    async with engine.connect() as connection:
        row = (await connection.execute(query)).one_or_none()
    return None if row is None else SealedAnswer(*row)


async def add(connection: AsyncConnection, answer: SealedAnswer) -> None:
    """Raises IntegrityError if there is one by this name already; the transaction has then to be given up."""
    await connection.execute(delete(table).where(table.c.created_at_us <= answer.created_at_us - LIFETIME_US))
    await connection.execute(insert(table).values({name: getattr(answer, name) for name in SealedAnswer.__slots__}))
