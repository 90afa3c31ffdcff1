"""What an API key is, and which values it may have. The rules hold whoever asks: command, API or console."""

import re
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final, Literal

from msgspec import UNSET, Struct, UnsetType

from xrouter.errors import BadRequest

LimitReset = Literal["daily", "weekly", "monthly"]
Status = Literal["active", "disabled", "expired", "revoked"]

LONGEST_TIER: Final = 32
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,63}", re.ASCII)
_TIER: Final = re.compile(rf"[a-z0-9_]{{1,{LONGEST_TIER}}}", re.ASCII)
_LONGEST_NAME: Final = 200
_MOST_ITEMS: Final = 1000
_LARGEST_NANO: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One stored key. OpenRouter's `Key` object is made from it; what it has spent comes from the ledger.

    `limit_nano`: in 10⁻⁹ credit. `…_at_us`: microseconds since the epoch, UTC. `networks`: in CIDR.
    """

    hash: str  # SHA-256 of the secret, in hex: the key's public name
    label: str  # the secret with its middle left out
    name: str
    account: str
    tier: str | None
    models: tuple[str, ...] | None
    networks: tuple[str, ...] | None
    limit_nano: int | None
    limit_reset: LimitReset | None
    management: bool
    disabled: bool
    revoked_at_us: int | None
    expires_at_us: int | None
    created_at_us: int
    updated_at_us: int | None
    rotated_from: str | None

    def status(self, now_us: int) -> Status:
        """The strongest reason why it is refused, or `active`. It is expired from the moment of its expiry on."""
        if self.revoked_at_us is not None:
            return "revoked"
        if self.expires_at_us is not None and self.expires_at_us <= now_us:
            return "expired"
        return "disabled" if self.disabled else "active"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What the maker of a key chooses. Raises BadRequest, naming the field, for a value that no key may have."""

    name: str
    account: str = "default"
    tier: str | None = None
    models: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    limit_nano: int | None = None
    limit_reset: LimitReset | None = None
    management: bool = False
    expires_at_us: int | None = None

    def __post_init__(self) -> None:
        check_account(self.account)
        _check_name(self.name)
        _check_tier(self.tier)
        _check_models(self.models)
        _check_networks(self.networks)
        _check_limit(self.limit_nano)


class KeyChanges(Struct, frozen=True, kw_only=True):
    """What may be changed on a key; what is left unset stays. The same rules as for a new one."""

    name: str | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    tier: str | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType | None = UNSET
    networks: tuple[str, ...] | UnsetType | None = UNSET
    limit_nano: int | UnsetType | None = UNSET
    limit_reset: LimitReset | UnsetType | None = UNSET
    expires_at_us: int | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        if self.name is not UNSET:
            _check_name(self.name)
        if self.tier is not UNSET:
            _check_tier(self.tier)
        if self.models is not UNSET:
            _check_models(self.models)
        if self.networks is not UNSET:
            _check_networks(self.networks)
        if self.limit_nano is not UNSET:
            _check_limit(self.limit_nano)

    def columns(self) -> dict[str, object]:
        """The columns to write, by name."""
        values = ((field, getattr(self, field)) for field in self.__struct_fields__)
        return {
            field: list(value) if isinstance(value, tuple) else value for field, value in values if value is not UNSET
        }


def check_account(account: str) -> None:
    """Raises BadRequest for a name that no account may have. Those that begin with @ are the gateway's own."""
    if not _ACCOUNT.fullmatch(account):
        raise BadRequest(
            "An account's name has 1 to 64 letters, digits and _ . : @ -, and begins with a letter or a digit",
            param="account",
        )


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise BadRequest(f"A key's name has 1 to {_LONGEST_NAME} printable characters", param="name")


def _check_tier(tier: str | None) -> None:
    if tier is not None and not _TIER.fullmatch(tier):
        raise BadRequest(f"A tier's name has 1 to {LONGEST_TIER} small letters, digits and _", param="tier")


def _check_models(models: tuple[str, ...] | None) -> None:
    if models is None:
        return
    if not 1 <= len(models) <= _MOST_ITEMS:
        raise BadRequest(f"A key is for 1 to {_MOST_ITEMS} models, or for all if none are named", param="models")
    if not all(model and len(model) <= _LONGEST_NAME and model.isprintable() for model in models):
        raise BadRequest(f"A model's name has 1 to {_LONGEST_NAME} printable characters", param="models")


def _check_networks(networks: tuple[str, ...] | None) -> None:
    if networks is None:
        return
    if not 1 <= len(networks) <= _MOST_ITEMS:
        raise BadRequest(f"A key is for 1 to {_MOST_ITEMS} networks, or for all if none are named", param="networks")
    for network in networks:
        try:
            ip_network(network)
        except ValueError:
            raise BadRequest(
                "A network is an address or CIDR without host bits, like 10.0.0.0/8 or 2001:db8::1", param="networks"
            ) from None


def _check_limit(limit_nano: int | None) -> None:
    if limit_nano is not None and not 0 <= limit_nano <= _LARGEST_NANO:
        raise BadRequest("A limit is an amount of credits, not negative", param="limit")
