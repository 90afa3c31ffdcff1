"""`xrouter keys`: API keys, made and managed on the gateway's database, beside a running gateway or without one.

A gateway follows within a second. A key is named by its hash, or by the first eight or more digits of it; its secret is
shown when it is made and never needed again here.
"""

import argparse
import asyncio
import math
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from msgspec import Struct
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from xrouter.auth.issue import issue, reissue
from xrouter.catalog import Catalog
from xrouter.commands.credits import AUTHOR
from xrouter.commands.key_output import EPOCH, KeyView, as_table, as_text, issued_view, view
from xrouter.config.load import ConfigError, load
from xrouter.config.settings import Settings
from xrouter.errors import XRouterError
from xrouter.ledger.direct import apply_within
from xrouter.ledger.operations import Transfer
from xrouter.store.amounts import parse_credits
from xrouter.store.engine import StoreError, reason
from xrouter.store.key import NewKey
from xrouter.store.keys import KeyStore
from xrouter.store.migrate import open_store
from xrouter.wire import encode_json
from xrouter.world import RealWorld, World

_PAGE: Final = 500
_LONGEST_GRACE_S: Final = 366 * 24 * 3600.0


class UsageError(Exception):
    """The arguments do not fit the configuration."""


class _Work(Struct, frozen=True):
    """What every operation is given. The store is open."""

    args: argparse.Namespace
    settings: Settings
    store: KeyStore
    world: World

    @property
    def now_us(self) -> int:
        return int(self.world.now() * 1e6)


_Operation = Callable[[_Work], Awaitable[KeyView | list[KeyView]]]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "keys", help="API keys", description="API keys. A running gateway follows within a second."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    create = _command(commands, "create", _create, "make a key and show its secret, this once")
    create.add_argument("--name", required=True, help="what people call it")
    create.add_argument("--tier", help="whose limits it has: a name under `tiers` in the configuration")
    create.add_argument("--account", default="default", help="whose credits it spends (default: %(default)s)")
    create.add_argument("--credits", type=_amount, metavar="N", help="grant so many credits to the account")
    create.add_argument("--limit", type=_amount, metavar="N", help="the most credits that this key may spend")
    create.add_argument(
        "--limit-reset", choices=("daily", "weekly", "monthly"), help="when the limit begins anew (default: never)"
    )
    create.add_argument("--models", type=_items, metavar="M,…", help="the models that it may use (default: all)")
    create.add_argument(
        "--expires", type=_time, metavar="ISO", help="when it ends, like 2027-01-31T12:00+03:00; without an offset: UTC"
    )
    create.add_argument(
        "--ip", type=_items, metavar="CIDR,…", help="the networks that it may be used from (default: all)"
    )
    create.add_argument("--management", action="store_true", help="a key for the management API, not for inference")
    _command(commands, "list", _list, "all keys, newest first")
    for name, operation, text in (
        ("show", _show, "one key"),
        ("revoke", _revoke, "end a key, for good"),
        ("rotate", _rotate, "make a new secret with the same rights and end the old one"),
    ):
        command = _command(commands, name, operation, text)
        command.add_argument("hash", metavar="HASH", help="the key's hash, or at least the first 8 digits of it")
        if operation is _rotate:
            command.add_argument(
                "--grace", type=_grace, default=0.0, metavar="SECONDS", help="how long the old secret goes on working"
            )


def run(args: argparse.Namespace) -> int:
    try:
        shown = asyncio.run(_run(args))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except (StoreError, UsageError, XRouterError) as error:
        print(f"xrouter keys: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(encode_json(shown).decode())
    else:
        print(as_table(shown) if isinstance(shown, list) else as_text(shown))
    return 0


async def _run(args: argparse.Namespace) -> KeyView | list[KeyView]:
    settings = load(args.config, os.environ)
    operation: _Operation = args.operation
    engine = await open_store(settings.store)
    world = RealWorld()
    try:
        return await operation(_Work(args, settings, KeyStore(engine, world), world))
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(f"the store failed: {reason(error)}") from error
    finally:
        await engine.dispose()


async def _create(work: _Work) -> KeyView:
    args, tiers = work.args, work.settings.tiers
    if args.tier is not None and args.tier not in tiers:
        raise UsageError(f"unknown tier {args.tier!r}; known: {', '.join(sorted(tiers)) or 'none'}")
    new = NewKey(
        name=args.name,
        account=args.account,
        tier=args.tier,
        models=_model_ids(args.models, Catalog(work.settings)),
        networks=args.ip,
        limit_nano=args.limit,
        limit_reset=args.limit_reset,
        management=args.management,
        expires_at_us=args.expires,
    )
    return issued_view(await issue(work.store, new, _granting(work)), work.now_us)


def _granting(work: _Work) -> Callable[[AsyncConnection], Awaitable[None]] | None:
    """Adds the grant to the transaction that makes the key: both happen, or neither."""
    if not work.args.credits:
        return None
    grant = Transfer(
        kind="grant",
        account=work.args.account,
        amount_nano=work.args.credits,
        reason=f"with the key {work.args.name}",
        author=AUTHOR,
    )

    async def write(connection: AsyncConnection) -> None:
        await apply_within(connection, work.world, grant)

    return write


async def _list(work: _Work) -> list[KeyView]:
    shown: list[KeyView] = []
    while True:
        keys = await work.store.page(offset=len(shown), limit=_PAGE, include_disabled=True)
        shown += [view(key, work.now_us) for key in keys]
        if len(keys) < _PAGE:
            return shown


async def _show(work: _Work) -> KeyView:
    return view(await work.store.find(work.args.hash), work.now_us)


async def _revoke(work: _Work) -> KeyView:
    key = await work.store.find(work.args.hash)
    return view(await work.store.revoke(key.hash), work.now_us)


async def _rotate(work: _Work) -> KeyView:
    key = await work.store.find(work.args.hash)
    return issued_view(await reissue(work.store, key, grace_s=work.args.grace), work.now_us)


def _model_ids(names: Sequence[str] | None, catalog: Catalog) -> tuple[str, ...] | None:
    """The ids of the models called `names`, each once: an alias may be given to another model later, an id names one."""
    if names is None:
        return None
    ids: dict[str, None] = {}
    for name in names:
        entry = catalog.resolve(name)
        if entry is None:
            raise UsageError(f"unknown model {name!r}; known: {', '.join(sorted(entry.id for entry in catalog))}")
        ids[entry.id] = None
    return tuple(ids)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, operation: _Operation, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run, operation=operation)
    return parser


def _amount(text: str) -> int:
    try:
        return parse_credits(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(","))


def _time(text: str) -> int:
    """Microseconds since the epoch."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an ISO 8601 time like 2027-01-31T12:00+03:00") from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return (at - EPOCH) // timedelta(microseconds=1)


def _grace(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST_GRACE_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to a year")
    return seconds
