"""`xrouter reload`: have a running gateway read its configuration again, and tell how that went."""

import argparse
import os
import sys
from pathlib import Path

from xrouter.config.load import ConfigError, load
from xrouter.wire import encode_json
from xrouter.workers.control import NoGateway, Question, ask


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "reload",
        help="have a running gateway read its configuration again",
        description="Have the gateway that serves FILE on this machine read it again. New requests go by the new"
        " configuration, those under way end under the old one. If anything is wrong with it, nothing changes, the problems"
        " are printed and the exit code is 1.",
    )
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        problem = ask(args.config, Question("reload")).problem
    except NoGateway as error:
        problem = _problem_of_file(args.config) or f"xrouter reload: {error}"
    except OSError as error:
        problem = f"xrouter reload: the gateway cannot be asked: {error.strerror or error}"
    if args.json:
        print(encode_json({"ok": problem is None, "problem": problem}).decode())
    if problem is not None:
        print(problem, file=sys.stderr)
        return 1
    if not args.json:
        print("reloaded")
    return 0


def _problem_of_file(config: Path) -> str | None:
    """Without a gateway the file itself may be what is wrong: another path, or one that cannot be read."""
    try:
        load(config, os.environ)
    except ConfigError as error:
        return str(error)
    return None
