"""`xrouter credits`: grants to accounts and what they have, beside a running gateway or without one."""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Final, cast

from msgspec import Struct
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.config.load import ConfigError, load
from xrouter.errors import BadRequest, NotFound, XRouterError
from xrouter.ledger.direct import apply_once
from xrouter.ledger.operations import Balance, Transfer
from xrouter.store.accounts import Accounts
from xrouter.store.amounts import format_credits, parse_credits
from xrouter.store.engine import StoreError, reason
from xrouter.store.key import check_account
from xrouter.store.migrate import open_store
from xrouter.wire import encode_json
from xrouter.world import RealWorld

AUTHOR: Final = "command line"
_LONGEST_REASON: Final = 500


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
    grant.add_argument("--amount", type=_amount, required=True, metavar="N", help="how many credits, like 12.5")
    grant.add_argument("--reason", default="grant", help="kept with the entry")
    grant.add_argument(
        "--idempotency-key", metavar="KEY", help="names this grant: sent again with the same key it happens only once"
    )
    _command(commands, "show", "what an account has")


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
    check_account(args.account)
    engine = await open_store(load(args.config, os.environ).store)
    try:
        return await (_grant(engine, args) if args.operation == "grant" else _show(engine, args.account))
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(f"the store failed: {reason(error)}") from error
    finally:
        await engine.dispose()


async def _grant(engine: AsyncEngine, args: argparse.Namespace) -> CreditsView:
    if not args.reason.isprintable() or len(args.reason) > _LONGEST_REASON:
        raise BadRequest(f"A reason has at most {_LONGEST_REASON} printable characters", param="reason")
    grant = Transfer(
        kind="grant",
        account=args.account,
        amount_nano=args.amount,
        reason=args.reason,
        author=AUTHOR,
        idempotency_key=args.idempotency_key,
    )
    balance = cast(Balance, await apply_once(engine, RealWorld(), grant))
    return _view(balance.account, balance.balance_nano, balance.held_nano, balance.available_nano)


async def _show(engine: AsyncEngine, account: str) -> CreditsView:
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
    parser.add_argument("--account", required=True, metavar="A", help="the account's name")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.set_defaults(run=run, operation=name)
    return parser


def _amount(text: str) -> int:
    try:
        return parse_credits(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
