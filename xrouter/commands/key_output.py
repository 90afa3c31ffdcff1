"""How keys are shown on a terminal and in a command's JSON."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct, structs

from xrouter.auth.issue import IssuedKey
from xrouter.store.amounts import format_credits
from xrouter.store.key import Key, LimitReset, Status

EPOCH: Final = datetime.fromtimestamp(0, UTC)
_SHOWN_OF_HASH: Final = 12


class KeyView(Struct, frozen=True, kw_only=True):
    """One key in JSON. Amounts are decimal strings of credits, times ISO 8601 in UTC."""

    hash: str
    label: str
    name: str
    account: str
    tier: str | None
    models: tuple[str, ...] | None
    ip: tuple[str, ...] | None
    limit: str | None
    limit_reset: LimitReset | None
    management: bool
    status: Status
    disabled: bool
    created_at: str
    updated_at: str | None
    expires_at: str | None
    revoked_at: str | None
    rotated_from: str | None


class IssuedKeyView(KeyView, frozen=True, kw_only=True):
    """A new key with its secret: the only time that it is shown."""

    key: str


def view(key: Key, now_us: int) -> KeyView:
    return KeyView(
        hash=key.hash,
        label=key.label,
        name=key.name,
        account=key.account,
        tier=key.tier,
        models=key.models,
        ip=key.networks,
        limit=None if key.limit_nano is None else format_credits(key.limit_nano),
        limit_reset=key.limit_reset,
        management=key.management,
        status=key.status(now_us),
        disabled=key.disabled or key.revoked_at_us is not None,
        created_at=_iso(key.created_at_us),
        updated_at=_iso_or_none(key.updated_at_us),
        expires_at=_iso_or_none(key.expires_at_us),
        revoked_at=_iso_or_none(key.revoked_at_us),
        rotated_from=key.rotated_from,
    )


def issued_view(issued: IssuedKey, now_us: int) -> IssuedKeyView:
    return IssuedKeyView(key=issued.secret.reveal(), **structs.asdict(view(issued.key, now_us)))


def as_text(shown: KeyView) -> str:
    """One line a field, the secret first if there is one; what is not set is left out."""
    fields = structs.asdict(shown)
    secret = {"key": fields.pop("key")} if isinstance(shown, IssuedKeyView) else {}
    return "\n".join(f"{name:<12} {_plain(value)}" for name, value in (secret | fields).items() if value is not None)


def as_table(keys: Sequence[KeyView]) -> str:
    rows = [("HASH", "KEY", "NAME", "ACCOUNT", "TIER", "STATUS", "EXPIRES")]
    rows += [
        (
            key.hash[:_SHOWN_OF_HASH],
            key.label,
            key.name,
            key.account,
            key.tier or "-",
            key.status,
            key.expires_at or "never",
        )
        for key in keys
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _plain(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ", ".join(value)
        case _:
            return str(value)


def _iso(at_us: int) -> str:
    return (EPOCH + timedelta(microseconds=at_us)).isoformat().replace("+00:00", "Z")


def _iso_or_none(at_us: int | None) -> str | None:
    return None if at_us is None else _iso(at_us)
