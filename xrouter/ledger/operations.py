"""What can be asked of the ledger. Each is one whole operation: it happens once, or not at all.

All but Renew, Expire, RollUp and Prune may be sent again after a lost answer: a generation's id or an idempotency key
names them, and the second time changes nothing. `durable` ones are on the disk before they are answered. The others may be
lost in a power cut (never by a killed process), and then the request that they belong to is lost with them.
"""

from typing import ClassVar, Literal

from msgspec import Struct

from xrouter.ledger.limits import SpendingLimit
from xrouter.store.ledger_rows import PriceVersion


class OpenHold(Struct, frozen=True):
    """Set aside `wanted_nano`, or what is left if that is at least `least_nano`.

    `quota`: limits of the key's tier, which hold beside the key's own. `look`: only answer as if it were held.
    """

    durable: ClassVar[bool] = False
    generation_id: str
    account: str
    key_hash: str
    wanted_nano: int
    least_nano: int
    holder: str
    quota: tuple[SpendingLimit, ...] = ()
    look: bool = False


class ExtendHold(Struct, frozen=True):
    """Let an open hold grow by `more_nano`, or by what is left if that is at least `least_nano`."""

    durable: ClassVar[bool] = False
    generation_id: str
    more_nano: int
    least_nano: int
    quota: tuple[SpendingLimit, ...] = ()


class ReleaseHold(Struct, frozen=True):
    """End a hold of which nothing is charged: the request never reached an upstream."""

    durable: ClassVar[bool] = False
    generation_id: str


class TakeBack(Struct, frozen=True):
    """End a hold of a request whose client has been told that it failed; refund it if it turns out to be settled."""

    durable: ClassVar[bool] = True
    generation_id: str
    account: str


class Settlement(Struct, frozen=True, kw_only=True):
    """The end of one generation and what it costs. Token counts are None where nothing was generated.

    `rule` and `outcome`: docs/money.md. `details`: JSON of `xrouter.ledger.receipts.Details`.
    """

    durable: ClassVar[bool] = True
    generation_id: str
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
    price: PriceVersion
    cost_nano: int
    provider_cost_nano: int
    created_at_us: int
    details: str


class Transfer(Struct, frozen=True, kw_only=True):
    """A movement that a person has decided: a grant, an adjustment, a refund (of a generation's charge).

    `amount_nano` is added to `account`; only an adjustment may be negative.
    """

    durable: ClassVar[bool] = True
    kind: Literal["grant", "adjustment", "refund"]
    account: str
    amount_nano: int
    reason: str
    author: str
    idempotency_key: str | None = None
    generation_id: str | None = None


class Renew(Struct, frozen=True):
    """This process lives: its open holds stay for another lease."""

    durable: ClassVar[bool] = False
    holder: str
    lease_us: int


class Expire(Struct, frozen=True):
    """End the open holds of processes that are dead. Answered with their number; more may be left if it is not 0."""

    durable: ClassVar[bool] = False
    lease_us: int


class RollUp(Struct, frozen=True):
    """Forget the sums by hour of one old day; that of the day stays. Answered with the number of rows; 0: none is so old."""

    durable: ClassVar[bool] = False


class Prune(Struct, frozen=True):
    """Forget a few rows that are older than they are to be kept; None: for ever. Answered with 0 when there are no more."""

    durable: ClassVar[bool] = False
    keep_holds_us: int | None
    keep_details_us: int | None


Operation = OpenHold | ExtendHold | ReleaseHold | TakeBack | Settlement | Transfer | Renew | Expire | RollUp | Prune


class HoldGranted(Struct, frozen=True):
    """`amount_nano`: what the hold now is. `payable_nano`: the most that it could be, with what else is left."""

    amount_nano: int
    payable_nano: int


class Settled(Struct, frozen=True):
    """`repeated`: it had been settled before; the figures are those of the first time."""

    generation_id: str
    cost_nano: int
    charged_nano: int
    overrun_nano: int
    repeated: bool = False


class Balance(Struct, frozen=True):
    account: str
    balance_nano: int
    held_nano: int
    floor_nano: int

    @property
    def available_nano(self) -> int:
        return self.balance_nano - self.held_nano - self.floor_nano


Result = HoldGranted | Settled | Balance | int | None
