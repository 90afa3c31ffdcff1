"""`xrouter db`: the database's schema."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from xrouter.config.load import ConfigError, load
from xrouter.store.engine import StoreError, create_engine, describe, reason
from xrouter.store.migrate import upgrade
from xrouter.wire import encode_json


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser("db", help="the database's schema", description="The database's schema.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    upgrade_parser = commands.add_parser(
        "upgrade",
        help="bring the database to this version's schema",
        description="Bring the database to this version's schema. Several at once are safe; one that has it already is"
        " left as it is.",
    )
    upgrade_parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
    upgrade_parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    upgrade_parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
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
