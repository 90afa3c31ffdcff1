"""`xrouter`: the commands. Each is a module of its own in xrouter/commands, imported when it is asked for."""

import argparse
import importlib
import os
import select
import sys
from typing import Final, NoReturn

from xrouter import __version__
from xrouter.imports import lasting_imports

_COMMANDS: Final = (
    "serve",
    "reload",
    "top",
    "quickstart",
    "check",
    "plan",
    "explain",
    "keys",
    "credits",
    "db",
    "sandbox",
)
_SIGPIPE_EXIT: Final = 141  # 128 + SIGPIPE: what a shell tells of a program that this signal has ended


class _Parser(argparse.ArgumentParser):
    """Errors are one line; `--help` tells the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is its own, 2 for a line that cannot be read, 141 if nobody reads the output."""
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            if sys.stdout is not None:  # it is None for a program that was started without one
                sys.stdout.flush()  # here, and not at the interpreter's end, where an error could not be caught
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is still in the buffer is flushed at the interpreter's end
        return _SIGPIPE_EXIT


def _nobody_reads() -> bool:
    """Whether it is the standard output that is broken, and not a connection of the command's own."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


def _run(arguments: list[str]) -> int:
    parser = _Parser(prog="xrouter", description="A self-hosted OpenRouter for Russian LLMs.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"xrouter {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    with lasting_imports():
        for name in [wanted] if wanted in _COMMANDS else _COMMANDS:
            importlib.import_module(f"xrouter.commands.{name}").add_parser(subparsers)
    args = parser.parse_args(arguments)
    try:
        result: int = args.run(args)
    except KeyboardInterrupt:
        return 130
    return result


if __name__ == "__main__":
    sys.exit(main())
