"""What a person moves by hand: a grant, a refund, an adjustment. Checked here before the ledger is asked.

The command line and the admin API differ in how they ask and in the author that they write; what they may ask is the same.
"""

from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.errors import BadRequest, NotFound
from xrouter.ledger.operations import Transfer
from xrouter.store.accounts import Accounts
from xrouter.store.key import check_account
from xrouter.store.receipts import read_receipt

LONGEST_REASON: Final = 500
LONGEST_IDEMPOTENCY_KEY: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A grant and an adjustment name an `account`, a refund a generation.

    `amount_nano` of an adjustment may be negative; None: a refund of all that the generation was charged.
    """

    kind: Literal["grant", "adjustment", "refund"]
    reason: str
    author: str
    amount_nano: int | None = None
    account: str = ""
    generation_id: str | None = None
    idempotency_key: str | None = None


async def to_transfer(engine: AsyncEngine, wish: Wish) -> Transfer:
    """What the ledger is to be asked. Raises BadRequest and NotFound.

    A grant begins an account. An adjustment does not: a name that is mistyped would owe what nobody knows of.
    """
    if not wish.reason or not wish.reason.isprintable() or len(wish.reason) > LONGEST_REASON:
        raise BadRequest(f"A reason has 1 to {LONGEST_REASON} printable characters", param="reason")
    name = wish.idempotency_key
    if name is not None and not (0 < len(name) <= LONGEST_IDEMPOTENCY_KEY and name.isascii() and name.isprintable()):
        raise BadRequest(
            f"An Idempotency-Key has 1 to {LONGEST_IDEMPOTENCY_KEY} printable ASCII characters", param="idempotency_key"
        )
    account, amount_nano = wish.account, wish.amount_nano
    if wish.kind == "refund":
        account, amount_nano = await _of_generation(engine, wish)
    else:
        check_account(account)
    if wish.kind == "adjustment" and await Accounts(engine).view(account) is None:
        raise NotFound(f"There is no account {account!r}; an account begins with its first grant", param="account")
    if amount_nano is None:
        raise BadRequest("The amount is missing", param="amount")
    return Transfer(
        kind=wish.kind,
        account=account,
        amount_nano=amount_nano,
        reason=wish.reason,
        author=wish.author,
        idempotency_key=name,
        generation_id=wish.generation_id,
    )


async def _of_generation(engine: AsyncEngine, wish: Wish) -> tuple[str, int]:
    """Whose the refund is, and how much: that no more comes back than was charged is the ledger's to see."""
    name = wish.generation_id or ""
    receipt = await read_receipt(engine, name, None) if name.isprintable() else None  # PostgreSQL takes no NUL
    if receipt is None:
        raise NotFound(f"There is no generation {name[:64]!r}", param="generation")
    charged_nano = receipt.generation.charged_nano
    if charged_nano == 0:
        raise BadRequest("Nothing was charged for this generation", param="generation")
    return receipt.generation.account, charged_nano if wish.amount_nano is None else wish.amount_nano
