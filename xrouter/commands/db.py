"""`xrouter db`: the database's schema, and the proof of the ledger in it."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from xrouter.config.load import ConfigError, load
from xrouter.ledger.proof import Proof, prove
from xrouter.store.amounts import format_credits
from xrouter.store.engine import StoreError, create_engine, describe, reason
from xrouter.store.migrate import open_store, upgrade
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
    for command, operation in ((upgrade_parser, run_upgrade), (check_parser, run_check)):
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
    engine = await open_store(url)
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
