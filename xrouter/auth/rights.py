"""What a key may do, as a set that can be compared: a management key never makes or changes a key beyond its own rights.

Rights narrow in six ways: the account, the tier, the models, the networks, the end of life, the credit limit. What a
management key does not say of a key that it makes, the key inherits. The limit bounds each key by itself, not all keys that
were made together: what bounds those is the account's balance.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_network

from xrouter.errors import Forbidden
from xrouter.store.key import Key, LimitReset, NewKey


@dataclass(frozen=True, slots=True)
class Rights:
    """None: not narrowed in that way. For `tier`, None is the configuration's default tier, a tier like any other."""

    account: str
    tier: str | None
    models: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    expires_at_us: int | None = None
    limit_nano: int | None = None
    limit_reset: LimitReset | None = None

    @classmethod
    def of(cls, key: Key | NewKey) -> "Rights":
        return cls(key.account, key.tier, key.models, key.networks, key.expires_at_us, key.limit_nano, key.limit_reset)

    def inherited_by(self, new: NewKey) -> NewKey:
        """`new` with what it leaves open taken from these rights, but for the account and the tier."""
        limit = {} if new.limit_nano is not None else {"limit_nano": self.limit_nano, "limit_reset": self.limit_reset}
        return replace(
            new,
            models=self.models if new.models is None else new.models,
            networks=self.networks if new.networks is None else new.networks,
            expires_at_us=self.expires_at_us if new.expires_at_us is None else new.expires_at_us,
            **limit,  # type: ignore[arg-type]
        )


def check_within(wanted: Rights, own: Rights) -> None:
    """Raise Forbidden, naming the field, unless `wanted` may do nothing that `own` may not."""
    if wanted.account != own.account:
        raise Forbidden("This management key is for another account", param="workspace_id")
    if wanted.tier != own.tier:
        raise Forbidden("A management key gives its own tier only", param="tier")
    if own.models is not None and not _models_within(wanted.models, own.models):
        raise Forbidden("This management key is not for all of these models", param="models")
    if own.networks is not None and not _networks_within(wanted.networks, own.networks):
        raise Forbidden("This management key is not for all of these networks", param="networks")
    if own.expires_at_us is not None and (wanted.expires_at_us is None or wanted.expires_at_us > own.expires_at_us):
        raise Forbidden("A key does not outlive the management key that makes it", param="expires_at")
    if not limit_within(wanted, own):
        raise Forbidden("The limit is beyond that of this management key", param="limit")


def limit_within(wanted: Rights, own: Rights) -> bool:
    """Whether `wanted`'s limit can never let more through than `own`'s.

    A limit that never begins anew is within any of the same amount. So is a weekly or monthly one within a daily one, but
    not a monthly one within a weekly: a week can lie in two months.
    """
    if own.limit_nano is None:
        return True
    if wanted.limit_nano is None or wanted.limit_nano > own.limit_nano:
        return False
    return wanted.limit_reset in (None, own.limit_reset) or own.limit_reset == "daily"


def _models_within(wanted: tuple[str, ...] | None, own: tuple[str, ...]) -> bool:
    """As `may_use` reads them: `author/*` holds all of an author's models, an id its variants."""
    return wanted is not None and all(
        name in own or name.partition(":")[0] in own or name.partition("/")[0] + "/*" in own for name in wanted
    )


def _networks_within(wanted: tuple[str, ...] | None, own: Iterable[str]) -> bool:
    if wanted is None:
        return False
    allowed = [ip_network(network) for network in own]
    return all(
        any(
            inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # of one version
            for outer in allowed
        )
        for inner in map(ip_network, wanted)
    )
