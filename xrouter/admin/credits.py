"""`/admin/api/credits`: what an account has, and what the operator moves by hand. The same as `xrouter credits`."""

from typing import Any, ClassVar, Final, Literal, Protocol

from msgspec import Struct
from starlette.requests import Request

from xrouter.admin.body import read_body
from xrouter.errors import BadRequest, NotFound
from xrouter.ledger.operations import Balance
from xrouter.ledger.transfers import Wish
from xrouter.store.accounts import AccountView
from xrouter.surfaces.base import credits
from xrouter.surfaces.strict_body import read_amount, read_struct

AUTHOR: Final = "admin API"


class Purse(Protocol):
    """The gateway, as far as credits go."""

    async def transfer(self, wish: Wish) -> Balance: ...

    async def account(self, name: str) -> AccountView | None: ...


class Grant(Struct, forbid_unknown_fields=True, kw_only=True):
    kind: ClassVar[Literal["grant"]] = "grant"
    account: str
    amount: Any
    reason: str = "grant"


class Adjustment(Struct, forbid_unknown_fields=True, kw_only=True):
    """`amount` may be negative."""

    kind: ClassVar[Literal["adjustment"]] = "adjustment"
    account: str
    amount: Any
    reason: str


class Refund(Struct, forbid_unknown_fields=True, kw_only=True):
    """Without `amount` all that the generation was charged."""

    kind: ClassVar[Literal["refund"]] = "refund"
    generation: str
    reason: str
    amount: Any = None


async def show(purse: Purse, request: Request) -> dict[str, Any]:
    """`?account=A`. Raises NotFound for one that nothing was ever posted to."""
    name = request.query_params.get("account", "")
    if not name:
        raise BadRequest("The query needs `account`, an account's name", param="account")
    view = await purse.account(name) if name.isprintable() else None  # PostgreSQL takes no NUL
    if view is None:
        raise NotFound(f"There is no account {name[:64]!r}", param="account")
    return _shape(view.name, view.balance_nano, view.held_nano, view.available_nano)


async def grant(purse: Purse, request: Request) -> dict[str, Any]:
    return await _move(purse, request, read_struct(await read_body(request), Grant))


async def adjust(purse: Purse, request: Request) -> dict[str, Any]:
    return await _move(purse, request, read_struct(await read_body(request), Adjustment))


async def refund(purse: Purse, request: Request) -> dict[str, Any]:
    return await _move(purse, request, read_struct(await read_body(request), Refund))


async def _move(purse: Purse, request: Request, asked: Grant | Adjustment | Refund) -> dict[str, Any]:
    amount_nano = None
    if not isinstance(asked, Refund) or asked.amount is not None:
        amount_nano = read_amount(asked.amount, "amount", signed=isinstance(asked, Adjustment))
    balance = await purse.transfer(
        Wish(
            kind=asked.kind,
            account="" if isinstance(asked, Refund) else asked.account,
            generation_id=asked.generation if isinstance(asked, Refund) else None,
            amount_nano=amount_nano,
            reason=asked.reason,
            author=AUTHOR,
            idempotency_key=_idempotency_key(request),
        )
    )
    return _shape(balance.account, balance.balance_nano, balance.held_nano, balance.available_nano)


def _idempotency_key(request: Request) -> str | None:
    given = request.headers.getlist("idempotency-key")
    if len(given) > 1:
        raise BadRequest("There is more than one Idempotency-Key", param="idempotency_key")
    return given[0] if given else None


def _shape(account: str, balance_nano: int, held_nano: int, available_nano: int) -> dict[str, Any]:
    """JSON numbers of credits, exact."""
    return {
        "account": account,
        "balance": credits(balance_nano),
        "held": credits(held_nano),
        "available": credits(available_nano),
    }
