"""`xrouter db`: the database's schema, and the proof of the ledger in it."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from xrouter.commands import db_copy
from xrouter.config.load import ConfigError, load
from xrouter.ledger.proof import Proof, prove
from xrouter.store.amounts import format_credits
from xrouter.store.backup import back_up
from xrouter.store.engine import StoreError, create_engine, describe, reason
from xrouter.store.migrate import current, downgrade, losses, open_store, upgrade
from xrouter.wire import encode_json


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser("db", help="the database", description="The database: its schema, its ledger.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    upgrade_parser = commands.add_parser(
        "upgrade",
        help="bring the database to this version's schema",
        description="Bring the database to this version's schema. Several at once are safe; one that has it already is"
        " left as it is.",
    )
    check_parser = commands.add_parser(
        "check",
        help="prove that the ledger is right",
        description="Prove from its rows that the ledger is right: balances, holds, charges, prices, sums. Every row that"
        " is not is named, and the exit code is then 1. A gateway may go on working meanwhile.",
    )
    downgrade_parser = commands.add_parser(
        "downgrade",
        help="take the database's schema back, for an older version of this program",
        description="Take the database's schema back, for an older version of this program, with all gateways stopped."
        " Without --yes it only says what would be lost.",
    )
    downgrade_parser.add_argument("--to", required=True, metavar="VERSION", help="the schema's version, as 0005")
    downgrade_parser.add_argument("--yes", action="store_true", help="do it")
    backup_parser = commands.add_parser(
        "backup",
        help="copy a SQLite database into a file",
        description="Copy a SQLite database into a file, as it was when this began. A gateway may go on working meanwhile.",
    )
    backup_parser.add_argument(
        "--to", type=Path, required=True, metavar="FILE", help="the copy, which is not there yet"
    )
    backup_parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    for command, operation in (
        (upgrade_parser, run_upgrade),
        (check_parser, run_check),
        (downgrade_parser, run_downgrade),
        (backup_parser, run_backup),
        (db_copy.add_parser(commands), db_copy.run),
    ):
        command.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
        command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
        command.set_defaults(run=operation)


def run_check(args: argparse.Namespace) -> int:
    try:
        proof = asyncio.run(_check(load(args.config, os.environ).store))
    except (ConfigError, StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    shown = {
        "ok": proof.ok,
        "sum": format_credits(proof.sum_nano),
        "accounts": proof.accounts,
        "entries": proof.entries,
        "generations": proof.generations,
        "holds_open": proof.holds_open,
        "problems": proof.problems,
        "dropped": proof.dropped,
    }
    if args.json:
        print(encode_json(shown).decode())
    elif proof.ok:
        print(
            f"the ledger is right: {proof.accounts} accounts, {proof.entries} entries, {proof.generations} generations,"
            f" {proof.holds_open} open holds; all balances together are 0"
        )
    else:
        print("\n".join(proof.problems))
    if not args.json:
        print("".join(f"note: {sentence}\n" for sentence in proof.dropped), end="")
    return 0 if proof.ok else 1


async def _check(url: str) -> Proof:
    engine = await open_store(url, reading=True)
    try:
        return await prove(engine)
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(f"the store {describe(engine)} cannot be read: {reason(error)}") from error
    finally:
        await engine.dispose()


def run_upgrade(args: argparse.Namespace) -> int:
    try:
        store, before, after = asyncio.run(_upgrade(load(args.config, os.environ).store))
    except (ConfigError, StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    if args.json:
        print(encode_json({"store": store, "before": before, "after": after}).decode())
    elif before == after:
        print(f"{store} has schema {after} already")
    else:
        print(f"{store}: schema {before or 'none'} → {after}")
    return 0


async def _upgrade(url: str) -> tuple[str, str | None, str]:
    engine = create_engine(url)
    try:
        before, after = await upgrade(engine)
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(f"the store {describe(engine)} cannot be upgraded: {reason(error)}") from error
    finally:
        await engine.dispose()
    return describe(engine), before, after


def run_downgrade(args: argparse.Namespace) -> int:
    try:
        before, lost = asyncio.run(_downgrade(load(args.config, os.environ).store, args.to, really=args.yes))
    except (ConfigError, StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    if args.json:
        print(encode_json({"before": before, "after": args.to, "done": args.yes, "lost": lost}).decode())
        return 0
    print(f"schema {before} → {args.to}{'' if args.yes else ' would lose (--yes does it)'}:")
    print("\n".join(f"- {sentence}" for sentence in lost))
    return 0


async def _downgrade(url: str, to: str, *, really: bool) -> tuple[str | None, tuple[str, ...]]:
    engine = create_engine(url)
    try:
        if really:
            return await downgrade(engine, to)
        before = await current(engine)
        return before, losses(before, to)
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(f"the store {describe(engine)} cannot be taken back: {reason(error)}") from error
    finally:
        await engine.dispose()


def run_backup(args: argparse.Namespace) -> int:
    try:
        made = back_up(load(args.config, os.environ).store, args.to, force=args.force)
    except (ConfigError, StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    if args.json:
        print(
            encode_json({"store": made.store, "to": str(args.to), "bytes": made.size, "schema": made.schema}).decode()
        )
    else:
        print(f"{made.store} → {args.to}: {made.size / 1e6:,.1f} MB, schema {made.schema or 'none'}")
    return 0
