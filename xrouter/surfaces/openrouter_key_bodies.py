"""The bodies of `POST keys` and `PATCH keys/{hash}`, read strictly: an unknown field or a doubtful amount is refused.

OpenRouter's fields, and under `xrouter` what only XRouter's keys have. `workspace_id` names the account.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from xrouter.errors import BadRequest
from xrouter.store.key import KeyChanges, LimitReset, NewKey
from xrouter.surfaces.strict_body import read_amount, read_struct
from xrouter.surfaces.times import parse_time

_V = TypeVar("_V")


class KeyExtras(Struct, forbid_unknown_fields=True, kw_only=True):
    """What XRouter's keys have beyond OpenRouter's."""

    tier: str | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType | None = UNSET
    networks: tuple[str, ...] | UnsetType | None = UNSET


class NewKeyExtras(KeyExtras, forbid_unknown_fields=True, kw_only=True):
    management: bool = False


class CreateKey(Struct, forbid_unknown_fields=True, kw_only=True):
    name: str
    limit: Any = None
    limit_reset: LimitReset | None = None
    include_byok_in_limit: bool | None = None  # without effect: there are no keys of clients' own at providers
    expires_at: str | None = None
    workspace_id: str | None = None
    creator_user_id: str | None = None
    external: Any = None
    xrouter: NewKeyExtras = msgspec.field(default_factory=NewKeyExtras)


class UpdateKey(Struct, forbid_unknown_fields=True, kw_only=True):
    name: str | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    limit: Any = UNSET
    limit_reset: LimitReset | UnsetType | None = UNSET
    include_byok_in_limit: bool | UnsetType | None = UNSET
    expires_at: str | UnsetType | None = UNSET
    workspace_id: str | UnsetType = UNSET
    xrouter: KeyExtras = msgspec.field(default_factory=KeyExtras)


def read_new_key(raw: bytes, account: str | None, tier: str | None) -> NewKey:
    """The key that a body describes; `account` and `tier` where it names none. Raises BadRequest, naming the field."""
    body = read_struct(raw, CreateKey)
    if body.creator_user_id is not None or body.external is not None:
        field = "external" if body.external is not None else "creator_user_id"
        raise BadRequest(f"`{field}` is not supported: keys belong to accounts", param=field)
    owner = body.workspace_id or account
    if owner is None:
        raise BadRequest("`workspace_id` is missing: the account that the key is for", param="workspace_id")
    extras = body.xrouter
    return NewKey(
        name=body.name,
        account=owner,
        tier=tier if extras.tier is UNSET else extras.tier,
        models=_given(extras.models),
        networks=_given(extras.networks),
        limit_nano=None if body.limit is None else read_amount(body.limit, "limit"),
        limit_reset=body.limit_reset,
        management=extras.management,
        expires_at_us=None if body.expires_at is None else _time(body.expires_at),
    )


def read_changes(raw: bytes) -> KeyChanges:
    """What a body changes. Raises BadRequest, naming the field."""
    body = read_struct(raw, UpdateKey)
    if body.workspace_id is not UNSET:
        raise BadRequest("A key stays with its account", param="workspace_id")
    extras = body.xrouter
    changes = KeyChanges(
        name=body.name,
        disabled=body.disabled,
        tier=extras.tier,
        models=extras.models,
        networks=extras.networks,
        limit_nano=_unless_null(body.limit, lambda value: read_amount(value, "limit")),
        limit_reset=body.limit_reset,
        expires_at_us=_unless_null(body.expires_at, _time),
    )
    if not changes.columns() and body.include_byok_in_limit is UNSET:
        raise BadRequest("The body changes nothing")
    return changes


def _given(value: _V | UnsetType | None) -> _V | None:
    return None if isinstance(value, UnsetType) else value


def _unless_null(value: Any, read: Callable[[Any], int]) -> int | UnsetType | None:
    """Of a field that may be left out or null."""
    return value if value is UNSET or value is None else read(value)


def _time(text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as error:
        raise BadRequest(f"`expires_at`: {error}", param="expires_at") from None
