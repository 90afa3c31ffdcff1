"""The names under which states are stored: one for each limit and each subject that it counts."""

from hashlib import blake2b
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from xrouter.context import RequestContext
from xrouter.limits.limit import Limit

_LONGEST: Final = 64  # of a subject that clients choose; a longer one is named by its hash


def state_key(limit: Limit, ctx: RequestContext, default_tier: str | None) -> str:
    """The key of `limit`'s state for the request's subject.

    What stands in braces is Redis Cluster's hash tag. An account's keys and users share the account's, so that all limits of
    one account live on one node and are taken in one step. Changing a limit's amount keeps its counts; changing its
    strategy or window starts anew.
    """
    if limit.per == "key":  # most are
        principal = ctx.principal
        return f"xrl:{{{principal.account}}}{limit.name_in_keys}{principal.key_id}"
    tag, subject = _subject(limit, ctx, default_tier)
    return f"xrl:{{{tag}}}{limit.name_in_keys}{subject}"


def _subject(limit: Limit, ctx: RequestContext, default_tier: str | None) -> tuple[str, str]:
    principal = ctx.principal
    match limit.per:
        case "key":
            return principal.account, principal.key_id
        case "account":
            return principal.account, ""
        case "user":  # the client's own name for its user; all requests without one are one user
            return principal.account, _short(ctx.call.request.user or "")
        case "model":
            return "model", _short(models(ctx)[0])
        case "upstream":
            upstream = ctx.route.targets[0].upstream if "route" in ctx else ""
            return "upstream", upstream
        case "ip":
            return "ip", _network(ctx.client_ip)
        case "tier":
            return "tier", (default_tier if principal.tier is None else principal.tier) or ""


def models(ctx: RequestContext) -> tuple[str, ...]:
    """The models that may serve the request, the most wanted first: as the configuration calls them, if `routing` ran."""
    if "route" in ctx:
        targets = ctx.route.targets
        if len(targets) == 1:
            return (targets[0].public_model,)
        return tuple(dict.fromkeys([target.public_model for target in targets]))
    return ctx.call.models or ("",)


def _network(client_ip: str) -> str:
    """An IPv6 client is its /64: that is what one subscriber has, with 2⁶⁴ addresses to choose from (RFC 6177)."""
    try:
        address = ip_address(client_ip)
    except ValueError:
        return client_ip
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ip_network((int(address), 64), strict=False))
    return str(address)


def _short(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return "blake2b-" + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
