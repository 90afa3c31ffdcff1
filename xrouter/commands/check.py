"""`xrouter check`: is the configuration right, and what does it mean?"""

import argparse
import os
import sys
from pathlib import Path

from xrouter.config.load import ConfigError, load
from xrouter.config.show import describe, describe_json


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "check",
        help="validate a configuration and print the chain as it will run",
        description="Validate a configuration and print the chain as it will run. Every problem is told at once, one line"
        " each, as file:line:col: problem, and the exit code is then 1.",
    )
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        settings = load(args.config, os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(describe_json(settings).decode() if args.json else describe(settings))
    return 0
