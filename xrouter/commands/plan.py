"""`xrouter plan`: what a new configuration changes, and whom it meets, before it is loaded."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from xrouter.commands.affected import Affected, affected
from xrouter.config.changes import Change, changes
from xrouter.config.load import ConfigError, load
from xrouter.config.settings import Settings
from xrouter.store.engine import StoreError
from xrouter.store.migrate import open_store
from xrouter.wire import encode_json
from xrouter.workers.source import needs_restart
from xrouter.world import RealWorld


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "plan",
        help="what a new configuration changes, and which keys it meets",
        description="Compare two configurations by what they mean, and look in the store of the old one for keys that lose a"
        " model or a tier, or are beyond a limit from its first moment. Nothing is changed.",
    )
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="NEW", help="the new configuration")
    parser.add_argument("--against", type=Path, required=True, metavar="OLD", help="the one that is in force")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        new, old = load(args.config, os.environ), load(args.against, os.environ)
        found, met = changes(old, new), asyncio.run(_met(old, new))
    except (ConfigError, StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    restart = needs_restart(old, new)
    if args.json:
        print(encode_json({"changes": found, "restart": restart, "keys": met}).decode())
    else:
        print(_as_text(found, restart, met))
    return 0


async def _met(old: Settings, new: Settings) -> list[Affected]:
    engine = await open_store(old.store)
    try:
        return await affected(engine, RealWorld(), old, new)
    finally:
        await engine.dispose()


def _as_text(found: list[Change], restart: list[str], met: list[Affected]) -> str:
    if not found:
        return "the two mean the same"
    lines = [str(change) for change in found]
    lines += [f"! {name} takes a restart; a reload leaves it as it is" for name in restart]
    lines += ["", f"{len(met)} key{'' if len(met) == 1 else 's'} would notice" + (":" if met else "")]
    for key in met:
        lines += [f"  {key.name} ({key.key[:12]}, account {key.account})", *(f"    {effect}" for effect in key.effects)]
    return "\n".join(lines)
