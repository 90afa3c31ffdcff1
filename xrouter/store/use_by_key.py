"""What each key has used lately, from the hourly sums: for telling whom a change of limits would meet."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.store.schema import usage_hours


@dataclass(frozen=True, slots=True)
class Use:
    requests: int
    tokens: int  # input and output


async def read_use_by_key(engine: AsyncEngine, *, since_hour: int) -> dict[str, Use]:
    """By key hash, of settled requests from the hour `since_hour` (since 1970) on."""
    hours = usage_hours.c
    tokens = func.sum(hours.input_tokens) + func.sum(hours.output_tokens)
    query = select(hours.key_hash, func.sum(hours.requests), tokens).where(hours.hour >= since_hour)
    async with engine.connect() as connection:
        rows = await connection.execute(query.group_by(hours.key_hash))
        return {key_hash: Use(int(requests), int(used)) for key_hash, requests, used in rows}
