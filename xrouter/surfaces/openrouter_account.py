"""What an account has and what it did: `GET key`, `GET credits`, `GET activity`, in OpenRouter's shapes.

OpenRouter's `workspace_id` is XRouter's account. Amounts are exact: the very integers of the ledger, as decimal numbers.
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from xrouter.config.settings import DEFAULT_TIER, Price
from xrouter.context import Principal
from xrouter.errors import BadRequest, Forbidden, NotFound, Unauthorized
from xrouter.filters.base import Services
from xrouter.ledger.limits import SpendingLimit, own_limit, quota_limits
from xrouter.ledger.windows import day_of, resets_at, roll, used_in
from xrouter.limits.limit import parse_rate
from xrouter.store.key import Key
from xrouter.store.keys import KeyStore
from xrouter.store.ledger_rows import KeyTerms, KeyUsage
from xrouter.store.usage import (
    ActivityRow,
    KeySpending,
    read_activity,
    read_credits,
    read_requests_of_day,
    read_spending,
)
from xrouter.surfaces.base import credits
from xrouter.surfaces.times import iso_time

_DAYS: Final = 30  # of activity: the whole UTC days before today
_UNLIMITED: Final = 2**31 - 1
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_NO_BYOK: Final = dict.fromkeys(("byok_usage", "byok_usage_daily", "byok_usage_weekly", "byok_usage_monthly"), 0)


class AccountShapes:
    def __init__(self, services: Services) -> None:
        self._store = services.store
        self._keys = KeyStore(services.store, services.world)
        self._world = services.world
        self._tiers = services.settings.tiers
        self._free_models = [entry.id for entry in services.catalog if _is_free(entry.settings.price)]

    async def key(self, principal: Principal) -> dict[str, Any]:
        """`GET key`: the key that asks. The admin token is one without limits or use."""
        today = day_of(int(self._world.now() * 1e6))
        if principal.operator:
            spent = KeySpending(
                KeyTerms(principal.key_id, None, None), KeyUsage(principal.key_id, 0, 0, today, 0, 0, 0)
            )
            return {"data": self._key(principal, None, spent, paid=True, free_requests=0)}
        key = await self._keys.get(principal.key_id)
        if key is None:  # deleted while this request was on its way
            raise Unauthorized()
        (spent,) = await read_spending(self._store, [key], today)
        roll(spent.usage, today)
        account = await read_credits(self._store, key.account)
        paid = account is not None and account.given_nano > 0
        free = await read_requests_of_day(self._store, day=today, account=key.account, models=self._free_models)
        return {"data": self._key(principal, key, spent, paid=paid, free_requests=free)}

    async def credits(self, principal: Principal, query: Mapping[str, str]) -> dict[str, Any]:
        """`GET credits`: given and used, of the account that the query names or the caller's own.

        The admin token gets the sum of all accounts where it names none.
        """
        account = asked_account(principal, query)
        found = await read_credits(self._store, account)
        if found is None:
            if principal.operator:
                raise NotFound(f"There is no account {(account or '')[:64]!r}", param="account")
            return {"data": {"total_credits": 0, "total_usage": 0}}
        return {"data": {"total_credits": credits(found.given_nano), "total_usage": credits(found.used_nano)}}

    async def activity(self, principal: Principal, query: Mapping[str, str]) -> dict[str, Any]:
        """`GET activity`: the last 30 whole UTC days, or one of them."""
        account = asked_account(principal, query)
        today = day_of(int(self._world.now() * 1e6))
        first, last = today - _DAYS, today - 1
        if (text := query.get("date")) is not None:
            first = last = _day(text, first, last)
        group_by = query.get("group_by")
        if group_by not in (None, "workspace"):
            raise BadRequest("`group_by` can only be workspace", param="group_by")
        if query.get("user_id"):
            return {"data": []}  # nobody signs in yet, so nothing was done by a user
        rows = await read_activity(
            self._store,
            first_day=first,
            last_day=last,
            account=account,
            key_hash=query.get("api_key_hash"),
            by_account=group_by is not None,
        )
        return {"data": [_activity(row, principal.operator) for row in rows]}

    def _key(
        self, principal: Principal, key: Key | None, spent: KeySpending, *, paid: bool, free_requests: int
    ) -> dict[str, Any]:
        budgets = [_budget(limit, spent.usage) for limit in (*own_limit(spent.terms), *self._quota(principal))]
        return {
            "label": key.label if key else principal.name,
            **spending(spent),
            "is_free_tier": not paid,
            "is_management_key": principal.management,
            "is_provisioning_key": principal.management,
            "creator_user_id": None,
            "organization_id": None,
            "workspace_id": None if principal.operator else principal.account,
            "expires_at": iso_time(key.expires_at_us) if key and key.expires_at_us is not None else None,
            "rate_limit": self._rate_limit(principal),
            "allowed_data_regions": ["global"],
            "free_model_daily_requests": {
                "limit": _UNLIMITED,
                "used": free_requests,
                "remaining": _UNLIMITED - free_requests,
            },
            "budgets": budgets,
            "effective_budget": min(budgets, key=lambda budget: budget["remaining_usd"], default=None),
        }

    def _quota(self, principal: Principal) -> tuple[SpendingLimit, ...]:
        name = principal.tier or DEFAULT_TIER
        tier = self._tiers.get(name)
        return () if principal.operator or tier is None or tier.quota is None else quota_limits(name, tier.quota)

    def _rate_limit(self, principal: Principal) -> dict[str, Any]:
        """The first limit on requests of the key's tier; -1 where it has none."""
        tier = self._tiers.get(principal.tier or DEFAULT_TIER)
        if principal.operator or tier is None or not tier.requests:
            return {"requests": -1, "interval": "1m", "note": "This key's tier has no limit on requests"}
        rate = parse_rate(tier.requests[0])
        note = "All limits of the tier: " + ", ".join((*tier.requests, *(f"{text} of tokens" for text in tier.tokens)))
        return {"requests": rate.amount, "interval": _interval(rate.window_s), "note": note}


def spending(spent: KeySpending) -> dict[str, Any]:
    """The fields on limits and use that `Key` and the current key have in common. The windows have been rolled on."""
    limit, reset, usage = spent.terms.limit_nano, spent.terms.limit_reset, spent.usage
    return {
        "limit": None if limit is None else credits(limit),
        "limit_remaining": None if limit is None else credits(max(0, limit - used_in(usage, reset))),
        "limit_reset": reset,
        "include_byok_in_limit": False,
        "usage": credits(usage.used_nano),
        "usage_daily": credits(usage.day_nano),
        "usage_weekly": credits(usage.week_nano),
        "usage_monthly": credits(usage.month_nano),
        **_NO_BYOK,
    }


def asked_account(principal: Principal, query: Mapping[str, str]) -> str | None:
    """The account that a management query is about, by `account` or OpenRouter's `workspace_id`; None: all.

    Raises Forbidden for any but its own to a management key, the same whether that account exists or not.
    """
    named = {value for name in ("account", "workspace_id") if (value := query.get(name))}
    if len(named) > 1:
        raise BadRequest("`account` and `workspace_id` mean the same: give one", param="workspace_id")
    account = named.pop() if named else None
    if principal.operator:
        return account
    if account not in (None, principal.account):
        raise Forbidden("This management key is for another account", param="account")
    return principal.account


def _budget(limit: SpendingLimit, usage: KeyUsage) -> dict[str, Any]:
    """One limit on spending. A tier's quota is what OpenRouter calls the workspace's default guardrail against the key."""
    spent, resets = used_in(usage, limit.reset), resets_at(usage.day, limit.reset)
    return {
        "scope": "key_limit" if limit.tier is None else "workspace_default_key",
        "budget_id": None,
        "guardrail_id": None if limit.tier is None else f"tier:{limit.tier}",
        "include_byok": False,
        "limit_usd": credits(limit.nano),
        "spend_usd": credits(spent),
        "remaining_usd": credits(limit.nano - spent),
        "reset_interval": limit.reset,
        "resets_at": resets.isoformat() if resets else None,
    }


def _activity(row: ActivityRow, operator: bool) -> dict[str, Any]:
    """What the operator pays to providers is told to the operator alone."""
    shape = {
        "date": date.fromordinal(_EPOCH_ORDINAL + row.day).isoformat(),
        "model": row.model,
        "model_permaslug": row.model,
        "endpoint_id": row.upstream,
        "provider_name": row.upstream,
        "usage": credits(row.charged_nano),
        "byok_usage_inference": 0,
        "requests": row.requests,
        "prompt_tokens": row.input_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.output_tokens,
        "reasoning_tokens": row.reasoning_tokens,
    }
    if operator:
        shape["provider_cost"] = credits(row.provider_cost_nano)
        shape["margin"] = credits(row.charged_nano - row.provider_cost_nano)
    return shape if row.account is None else {**shape, "workspace_id": row.account}


def _day(text: str, first: int, last: int) -> int:
    day = -1
    if _DATE.fullmatch(text):
        try:
            day = date.fromisoformat(text).toordinal() - _EPOCH_ORDINAL
        except ValueError:
            day = -1
    if not first <= day <= last:
        raise BadRequest(f"`date` is one of the last {_DAYS} whole UTC days, written YYYY-MM-DD", param="date")
    return day


def _interval(window_s: int) -> str:
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
        if window_s % seconds == 0:
            return f"{window_s // seconds}{unit}"
    return f"{window_s}s"


def _is_free(price: Price | str | None) -> bool:
    return price == "free"
