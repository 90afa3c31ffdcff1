"""The stored API keys: each method is one whole operation in one transaction, the revision included.

A secret never comes here. It is made and hashed in `xrouter.auth`; this module knows keys by their hash.
"""

from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from typing import Any, Final

from sqlalchemy import RowMapping, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from xrouter.errors import BadRequest, NotFound
from xrouter.store import revisions
from xrouter.store.engine import writing
from xrouter.store.key import Key, KeyChanges, NewKey
from xrouter.store.schema import api_keys, key_roots
from xrouter.world import World

_FIELDS: Final = tuple(field.name for field in fields(Key))
_SHORTEST_PREFIX: Final = 8
_HASH_LENGTH: Final = 64


class KeyStore:
    """Raises NotFound for a key that is not there and BadRequest for what a key does not allow."""

    def __init__(self, engine: AsyncEngine, world: World) -> None:
        self._engine = engine
        self._world = world

    async def create(
        self,
        new: NewKey,
        *,
        hash: str,
        label: str,
        before_commit: Callable[[AsyncConnection], Awaitable[None]] | None = None,
    ) -> Key:
        """Store a new key. `before_commit` adds to the same transaction, as a grant to the key's account does."""
        now_us = self._now_us()
        _check_expiry(new.expires_at_us, now_us)
        key = Key(
            hash=hash,
            label=label,
            name=new.name,
            account=new.account,
            tier=new.tier,
            models=new.models,
            networks=new.networks,
            limit_nano=new.limit_nano,
            limit_reset=new.limit_reset,
            management=new.management,
            disabled=False,
            revoked_at_us=None,
            expires_at_us=new.expires_at_us,
            created_at_us=now_us,
            updated_at_us=None,
            rotated_from=None,
        )
        async with writing(self._engine) as connection:
            await connection.execute(insert(api_keys).values(_row(key)))
            if before_commit is not None:
                await before_commit(connection)
            await revisions.bump(connection, "keys")
        return key

    async def get(self, hash: str) -> Key | None:
        async with self._engine.connect() as connection:
            row = (await connection.execute(select(api_keys).where(api_keys.c.hash == hash))).mappings().one_or_none()
        return None if row is None else _key(row)

    async def find(self, prefix: str) -> Key:
        """The one key whose hash begins with `prefix`, of at least 8 hex digits."""
        prefix = prefix.lower()
        if not _SHORTEST_PREFIX <= len(prefix) <= _HASH_LENGTH or not set(prefix) <= set("0123456789abcdef"):
            raise BadRequest(
                f"A key is named by its hash, or by at least the first {_SHORTEST_PREFIX} hex digits of it"
            )
        query = select(api_keys).where(api_keys.c.hash.startswith(prefix)).limit(2)
        async with self._engine.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        if len(rows) > 1:
            raise BadRequest("More than one key has a hash that begins so; give more of it")
        if not rows:
            raise NotFound("No key has this hash")
        return _key(rows[0])

    async def page(
        self,
        *,
        offset: int = 0,
        limit: int = 100,
        include_disabled: bool = False,
        include_expired: bool = True,
        account: str | None = None,
        management: bool | None = None,
    ) -> list[Key]:
        """Keys by time of creation, newest first. Without `include_disabled`, neither disabled nor revoked ones.

        `account`, `management`: only keys of this account, only those that are management keys or are not.
        """
        query = select(api_keys).order_by(api_keys.c.created_at_us.desc(), api_keys.c.hash.desc())
        if not include_disabled:
            query = query.where(api_keys.c.disabled.is_(False), api_keys.c.revoked_at_us.is_(None))
        if not include_expired:
            expires = api_keys.c.expires_at_us
            query = query.where(expires.is_(None) | (expires > self._now_us()))
        if account is not None:
            query = query.where(api_keys.c.account == account)
        if management is not None:
            query = query.where(api_keys.c.management.is_(management))
        async with self._engine.connect() as connection:
            rows = (await connection.execute(query.offset(offset).limit(limit))).mappings()
            return [_key(row) for row in rows]

    async def update(self, hash: str, changes: KeyChanges) -> Key:
        """Change a key that is not revoked."""
        now_us = self._now_us()
        columns = changes.columns()
        if isinstance(changes.expires_at_us, int):
            _check_expiry(changes.expires_at_us, now_us)
        async with writing(self._engine) as connection:
            _not_revoked(await _locked(connection, hash))
            return await _write(connection, hash, {**columns, "updated_at_us": now_us})

    async def revoke(self, hash: str) -> Key:
        """End a key for good. One that is already revoked stays as it is."""
        now_us = self._now_us()
        async with writing(self._engine) as connection:
            key = await _locked(connection, hash)
            if key.revoked_at_us is not None:
                return key
            return await _write(connection, hash, {"revoked_at_us": now_us, "updated_at_us": now_us})

    async def delete(self, hash: str) -> None:
        """Forget a key. What it has spent stays in the ledger, and counts for the keys that it was rotated to."""
        async with writing(self._engine) as connection:
            deleted = await connection.execute(delete(api_keys).where(api_keys.c.hash == hash))
            if deleted.rowcount == 0:
                raise NotFound("No key has this hash")
            await revisions.bump(connection, "keys")

    async def rotate(self, hash: str, *, new_hash: str, new_label: str, grace_s: float = 0.0) -> Key:
        """Put a successor with the same rights in a key's place; returns it. The old one ends after `grace_s` seconds.

        The two spend from one limit: the ledger counts for the first key of a chain what all of them spend.

        Only a key that is in force has one: a successor of a revoked or expired key would bring it back, and one of a key
        that already has a successor would take over an expiry that was meant for the old secret alone.
        """
        now_us = self._now_us()
        ends_at_us = now_us + round(grace_s * 1e6)
        async with writing(self._engine) as connection:
            old = _not_revoked(await _locked(connection, hash))
            if old.status(now_us) == "expired":
                raise BadRequest("This key has expired; create a new one")
            new = replace(
                old, hash=new_hash, label=new_label, created_at_us=now_us, updated_at_us=None, rotated_from=hash
            )
            try:
                await connection.execute(insert(api_keys).values(_row(new)))
            except IntegrityError:
                raise BadRequest("This key has been rotated already; rotate its successor") from None
            root = await connection.scalar(select(key_roots.c.root).where(key_roots.c.key_hash == hash))
            await connection.execute(insert(key_roots).values(key_hash=new_hash, root=root or hash))
            ending: dict[str, object] = {"revoked_at_us": now_us}
            if grace_s > 0:
                ending = {"expires_at_us": min(ends_at_us, old.expires_at_us or ends_at_us)}
            await _write(connection, hash, {**ending, "updated_at_us": now_us})
        return new

    def _now_us(self) -> int:
        return int(self._world.now() * 1e6)


async def _locked(connection: AsyncConnection, hash: str) -> Key:
    """The key as it stays until the end of the transaction. SQLite has no row locks and needs none: one writer at a time."""
    query = select(api_keys).where(api_keys.c.hash == hash).with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("No key has this hash")
    return _key(row)


async def _write(connection: AsyncConnection, hash: str, columns: dict[str, object]) -> Key:
    statement = update(api_keys).where(api_keys.c.hash == hash).values(columns).returning(api_keys)
    row = (await connection.execute(statement)).mappings().one()
    await revisions.bump(connection, "keys")
    return _key(row)


def _not_revoked(key: Key) -> Key:
    if key.revoked_at_us is not None:
        raise BadRequest("This key is revoked; create a new one")
    return key


def _check_expiry(expires_at_us: int | None, now_us: int) -> None:
    if expires_at_us is not None and expires_at_us <= now_us:
        raise BadRequest("A key's expiry lies in the future", param="expires_at")


def _row(key: Key) -> dict[str, Any]:
    values = {name: getattr(key, name) for name in _FIELDS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _key(row: RowMapping) -> Key:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value := row[name], list) else value for name in _FIELDS}
    return Key(**values)
