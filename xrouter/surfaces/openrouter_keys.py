"""`keys` of an account, as OpenRouter's management API has them: list, make, show, change, delete.

A management key manages the inference keys of its own account, within its own rights (`xrouter.auth.rights`). Management
keys are made, and seen here, by the admin token alone, which manages every account.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from xrouter.auth import keyformat, sealing
from xrouter.auth.issue import issue
from xrouter.auth.rights import Rights, check_within, limit_within
from xrouter.catalog import Catalog
from xrouter.context import Principal
from xrouter.errors import BadRequest, Forbidden, NotFound, Unauthorized, Unprocessable
from xrouter.filters.base import Services
from xrouter.ledger.windows import day_of, roll
from xrouter.secret import Secret
from xrouter.store import idempotency
from xrouter.store.key import Key, KeyChanges, NewKey
from xrouter.store.keys import KeyStore
from xrouter.store.usage import KeySpending, read_last_used, read_spending
from xrouter.surfaces.openrouter_account import asked_account, spending
from xrouter.surfaces.openrouter_key_bodies import read_changes, read_new_key
from xrouter.surfaces.query import flag, whole_number
from xrouter.surfaces.times import iso_time

_log = logging.getLogger(__name__)
_PAGE: Final = 100
_FARTHEST: Final = 10**9


@dataclass(frozen=True, slots=True)
class Once:
    """An `Idempotency-Key`, and the credential that came with it."""

    name: str
    credential: Secret


class KeyShapes:
    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._keys = KeyStore(services.store, services.world)
        self._ring = services.keys
        self._world = services.world
        self._catalog: Catalog = services.catalog
        self._tiers = services.settings.tiers

    async def page(self, principal: Principal, query: Mapping[str, str]) -> dict[str, Any]:
        keys = await self._keys.page(
            offset=whole_number(query, "offset", 0, _FARTHEST),
            limit=_PAGE,
            include_disabled=flag(query, "include_disabled"),
            include_expired=flag(query, "include_expired"),
            account=asked_account(principal, query),
            management=None if principal.operator else False,
        )
        return {"data": await self._shapes(keys)}

    async def show(self, principal: Principal, key_hash: str) -> dict[str, Any]:
        return {"data": await self._shape(await self._key(principal, key_hash))}

    async def create(self, principal: Principal, raw: bytes, once: Once | None) -> dict[str, Any]:
        """Make a key. Under an Idempotency-Key that was used for the same within a day, answer with the key made then."""
        if once is not None and (before := await self._made_before(principal, raw, once)):
            return before
        new = await self._new_key(principal, raw)
        secret = keyformat.new_secret(new.tier)
        answer = None if once is None else self._sealed(principal, raw, once, secret)

        async def remember(connection: AsyncConnection) -> None:
            if answer is not None:
                await idempotency.add(connection, answer)

        try:
            issued = await issue(self._keys, new, remember, secret=secret)
        except IntegrityError:
            # The same request came twice at once, and the other one was first.
            if once is not None and (before := await self._made_before(principal, raw, once)):
                return before
            raise
        await self._notice()
        return {"data": await self._shape(issued.key), "key": secret.reveal()}

    async def update(self, principal: Principal, key_hash: str, raw: bytes) -> dict[str, Any]:
        before = await self._key(principal, key_hash)
        changes = self._by_id(read_changes(raw))
        if not principal.operator:
            _check_change(before, _after(before, changes), Rights.of(await self._own(principal)))
        if not changes.columns():
            return {"data": await self._shape(before)}
        changed = await self._keys.update(key_hash, changes)
        await self._notice()
        return {"data": await self._shape(changed)}

    async def delete(self, principal: Principal, key_hash: str) -> dict[str, Any]:
        await self._key(principal, key_hash)
        await self._keys.delete(key_hash)
        await self._notice()
        return {"deleted": True}

    async def _key(self, principal: Principal, key_hash: str) -> Key:
        """Raises NotFound, also for a key of another account: that it exists is none of this account's business."""
        key = await self._keys.get(key_hash)
        if key is None or (not principal.operator and (key.account != principal.account or key.management)):
            raise NotFound("No key has this hash")
        return key

    async def _own(self, principal: Principal) -> Key:
        own = await self._keys.get(principal.key_id)
        if own is None:  # deleted while this request was on its way
            raise Unauthorized()
        return own

    async def _new_key(self, principal: Principal, raw: bytes) -> NewKey:
        if principal.operator:
            new = self._by_id_new(read_new_key(raw, None, None))
        else:
            own = Rights.of(await self._own(principal))
            new = own.inherited_by(self._by_id_new(read_new_key(raw, own.account, own.tier)))
            check_within(Rights.of(new), own)
            if new.management:
                raise Forbidden("Management keys are made with the admin token", param="xrouter.management")
        self._check_tier(new.tier)
        return new

    def _by_id_new(self, new: NewKey) -> NewKey:
        return replace(new, models=self._ids(new.models))

    def _by_id(self, changes: KeyChanges) -> KeyChanges:
        if isinstance(changes.tier, str):
            self._check_tier(changes.tier)
        if not isinstance(changes.models, tuple):
            return changes
        values = {name: getattr(changes, name) for name in changes.__struct_fields__}
        return KeyChanges(**{**values, "models": self._ids(changes.models)})

    def _check_tier(self, tier: str | None) -> None:
        if tier is not None and tier not in self._tiers:
            raise BadRequest(f"There is no tier {tier[:32]!r}", param="xrouter.tier")

    def _ids(self, models: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """An alias may be given to another model later, an id names one; `author/*` is every model of an author."""
        if models is None:
            return None
        ids: dict[str, None] = {}
        for name in models:
            entry = self._catalog.resolve(name)
            if entry is None and not name.endswith("/*"):
                raise BadRequest(f"There is no model {name[:128]!r}", param="xrouter.models")
            ids[name if entry is None else entry.id] = None
        return tuple(ids)

    def _sealed(self, principal: Principal, raw: bytes, once: Once, secret: Secret) -> idempotency.SealedAnswer:
        return idempotency.SealedAnswer(
            owner=principal.key_id,
            name_digest=_digest(once.name.encode()),
            request_digest=_digest(raw),
            subject=keyformat.digest(secret.reveal()).hex(),
            sealed=sealing.seal(secret, sealing.sealing_key(once.credential, once.name)),
            created_at_us=self._now_us(),
        )

    async def _made_before(self, principal: Principal, raw: bytes, once: Once) -> dict[str, Any] | None:
        now_us = self._now_us()
        found = await idempotency.find(self._store, principal.key_id, _digest(once.name.encode()), now_us)
        if found is None:
            return None
        secret = sealing.unseal(found.sealed, sealing.sealing_key(once.credential, once.name))
        if found.request_digest != _digest(raw) or secret is None:
            raise Unprocessable("This Idempotency-Key was used for another request")
        key = await self._keys.get(found.subject)
        if key is None:
            raise NotFound("The key that was made under this Idempotency-Key has been deleted")
        return {"data": await self._shape(key), "key": secret.reveal()}

    async def _notice(self) -> None:
        """Let this process know of the change at once. If it cannot, it knows within a second, as the others do."""
        try:
            await self._ring.refresh()
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            _log.warning("a change of keys is noticed later: %s", type(error).__name__)

    async def _shape(self, key: Key) -> dict[str, Any]:
        (shape,) = await self._shapes([key])
        return shape

    async def _shapes(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        today = day_of(self._now_us())
        spent = await read_spending(self._store, keys, today)
        last_used = await read_last_used(self._store, [key.hash for key in keys])
        for one in spent:
            roll(one.usage, today)
        return [_shape(key, one, last_used.get(key.hash), self._now_us()) for key, one in zip(keys, spent, strict=True)]

    def _now_us(self) -> int:
        return int(self._world.now() * 1e6)


def _shape(key: Key, spent: KeySpending, last_used_us: int | None, now_us: int) -> dict[str, Any]:
    """OpenRouter's `Key`."""
    return {
        "hash": key.hash,
        "name": key.name,
        "label": key.label,
        "disabled": key.disabled or key.revoked_at_us is not None,
        **spending(spent),
        "created_at": iso_time(key.created_at_us),
        "updated_at": _time(key.updated_at_us),
        "expires_at": _time(key.expires_at_us),
        "last_used_at": _time(last_used_us),
        "creator_user_id": None,
        "external_user": None,
        "workspace_id": key.account,
        "xrouter": {
            "status": key.status(now_us),
            "tier": key.tier,
            "models": key.models,
            "networks": key.networks,
            "management": key.management,
            "revoked_at": _time(key.revoked_at_us),
            "rotated_from": key.rotated_from,
        },
    }


def _after(key: Key, changes: KeyChanges) -> Key:
    """The key as `changes` would leave it."""
    columns: dict[str, Any] = changes.columns()
    lists = {name: tuple(value) for name, value in columns.items() if isinstance(value, list)}
    return replace(key, **{**columns, **lists})


def _check_change(before: Key, after: Key, own: Rights) -> None:
    """Raise Forbidden for a change that gives the key more than it had, beyond what the changing key may do itself.

    Names, disabling and lower limits give nothing. Everything else is held against the rights of the whole key.
    """
    was, will_be = Rights.of(before), Rights.of(after)
    enabled = before.disabled and not after.disabled
    narrowed = replace(was, limit_nano=will_be.limit_nano, limit_reset=will_be.limit_reset)
    if not enabled and narrowed == will_be and limit_within(will_be, was):
        return
    check_within(will_be, own)


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def _time(at_us: int | None) -> str | None:
    return None if at_us is None else iso_time(at_us)
