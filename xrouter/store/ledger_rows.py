"""The ledger's rows as the rules of xrouter/ledger see them, while one transaction is under way.

Rows that change are mutable and remember what was read (`read_…`), so that writing them back is guarded by it.
"""

from typing import Literal, NamedTuple

from msgspec import Struct

HoldState = Literal["open", "settled", "released", "expired"]
EntryKind = Literal["grant", "charge", "overrun", "cost", "refund", "adjustment"]


class Account(Struct):
    name: str
    kind: Literal["owner", "system"]
    balance_nano: int
    held_nano: int
    floor_nano: int
    read_balance_nano: int | None = None  # None: the row is not in the database yet
    read_held_nano: int = 0

    @property
    def available_nano(self) -> int:
        return self.balance_nano - self.held_nano - self.floor_nano


class Hold(Struct):
    generation_id: str
    account: str
    key_hash: str
    amount_nano: int
    holder: str
    state: HoldState
    opened_at_us: int
    closed_at_us: int | None
    read_state: HoldState | None = None  # None: the row is not in the database yet


class KeyTerms(NamedTuple):
    """What the ledger goes by for one key. `root`: the first of the keys that it was rotated from, or the key itself."""

    root: str
    limit_nano: int | None
    limit_reset: Literal["daily", "weekly", "monthly"] | None


class KeyUsage(Struct):
    """What a whole chain of rotated keys has spent: ever, and on the `day` (days since 1970, UTC), in its week and month."""

    key_hash: str  # of the first key of the chain
    held_nano: int
    used_nano: int
    day: int
    day_nano: int
    week_nano: int
    month_nano: int


class Entry(NamedTuple):
    kind: EntryKind
    debit_account: str
    credit_account: str
    amount_nano: int
    generation_id: str | None
    reason: str | None
    author: str | None
    idempotency_key: str | None
    at_us: int


class Generation(NamedTuple):
    """A row of `generations`, in the order of its columns."""

    id: str
    account: str
    key_hash: str
    model: str
    upstream: str | None
    upstream_model: str | None
    outcome: str
    rule: str
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    usage_source: str | None
    images: int
    price_version: str
    cost_nano: int
    provider_cost_nano: int
    hold_nano: int
    charged_nano: int
    overrun_nano: int
    created_at_us: int
    settled_at_us: int
    day: int
    details: str


class UsagePlace(NamedTuple):
    """What sums of usage are kept for."""

    hour: int
    account: str
    key_hash: str
    model: str
    upstream: str


class UsageSum(Struct):
    """What is added to the sums of one place."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    charged_nano: int = 0
    provider_cost_nano: int = 0


class PriceVersion(NamedTuple):
    """A row of `prices`; `rates` is JSON."""

    version: str
    model: str
    since: str | None
    rates: str
