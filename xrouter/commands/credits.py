"""`xrouter credits`: what is moved by hand and what accounts have, beside a running gateway or without one."""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Final, Literal, cast

from msgspec import Struct
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.config.load import ConfigError, load
from xrouter.errors import NotFound, XRouterError
from xrouter.ledger.direct import apply_once
from xrouter.ledger.operations import Balance
from xrouter.ledger.transfers import Wish, to_transfer
from xrouter.store.accounts import Accounts
from xrouter.store.amounts import format_credits, parse_credits
from xrouter.store.engine import StoreError, reason
from xrouter.store.key import check_account
from xrouter.store.migrate import open_store
from xrouter.wire import encode_json
from xrouter.world import RealWorld

AUTHOR: Final = "command line"
_KINDS: Final[dict[str, Literal["grant", "adjustment", "refund"]]] = {
    "grant": "grant",
    "adjust": "adjustment",
    "refund": "refund",
}


class CreditsView(Struct, frozen=True):
    """One account in JSON: decimal strings of credits."""

    account: str
    balance: str
    held: str
    available: str


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "credits", help="accounts and their credits", description="Accounts and their credits. 1 credit is 1 ruble."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    grant = _command(commands, "grant", "give credits to an account")
    _name_account(grant)
    grant.add_argument("--amount", type=_amount, required=True, metavar="N", help="how many credits, like 12.5")
    grant.add_argument("--reason", default="grant", help="kept with the entry")
    _name_movement(grant)
    refund = _command(commands, "refund", "give back what a generation was charged")
    refund.add_argument("--generation", required=True, metavar="ID", help="the generation's id, gen-…")
    refund.add_argument("--amount", type=_amount, metavar="N", help="how many credits (without: all that was charged)")
    refund.add_argument("--reason", required=True, help="kept with the entry")
    _name_movement(refund)
    adjust = _command(commands, "adjust", "correct an account's balance, up or down")
    _name_account(adjust)
    adjust.add_argument(
        "--amount", type=_signed_amount, required=True, metavar="N", help="credits to add, like 12.5 or -12.5"
    )
    adjust.add_argument("--reason", required=True, help="kept with the entry")
    _name_movement(adjust)
    _name_account(_command(commands, "show", "what an account has"))


def run(args: argparse.Namespace) -> int:
    try:
        shown = asyncio.run(_run(args))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except (StoreError, XRouterError) as error:
        print(f"xrouter credits: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(encode_json(shown).decode())
    else:
        print(f"{shown.account}: {shown.available} credits available ({shown.balance} less {shown.held} held)")
    return 0


async def _run(args: argparse.Namespace) -> CreditsView:
    engine = await open_store(load(args.config, os.environ).store)
    try:
        return await (_show(engine, args.account) if args.operation == "show" else _move(engine, args))
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(f"the store failed: {reason(error)}") from error
    finally:
        await engine.dispose()


async def _move(engine: AsyncEngine, args: argparse.Namespace) -> CreditsView:
    wish = Wish(
        kind=_KINDS[args.operation],
        account=getattr(args, "account", ""),
        generation_id=getattr(args, "generation", None),
        amount_nano=args.amount,
        reason=args.reason,
        author=AUTHOR,
        idempotency_key=args.idempotency_key,
    )
    balance = cast(Balance, await apply_once(engine, RealWorld(), await to_transfer(engine, wish)))
    return _view(balance.account, balance.balance_nano, balance.held_nano, balance.available_nano)


async def _show(engine: AsyncEngine, account: str) -> CreditsView:
    if not account.startswith("@"):  # the gateway's own accounts are there to be looked at
        check_account(account)
    view = await Accounts(engine).view(account)
    if view is None:
        raise NotFound(f"There is no account {account!r}; an account begins with its first grant")
    return _view(view.name, view.balance_nano, view.held_nano, view.available_nano)


def _view(account: str, *nano: int) -> CreditsView:
    return CreditsView(account, *map(format_credits, nano))


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.set_defaults(run=run, operation=name)
    return parser


def _name_account(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--account", required=True, metavar="A", help="the account's name")


def _name_movement(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--idempotency-key",
        metavar="KEY",
        help="names this movement: sent again with the same key it happens only once",
    )


def _amount(text: str) -> int:
    try:
        return parse_credits(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _signed_amount(text: str) -> int:
    return -_amount(text[1:]) if text.startswith("-") else _amount(text)
