"""`xrouter db copy`: a running SQLite store moves to PostgreSQL."""

import argparse
import asyncio
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.commands.private_file import write_private
from xrouter.config.load import ConfigError, load
from xrouter.config.settings import Settings
from xrouter.ledger.proof import prove
from xrouter.store.copying.back import give_up, go_back
from xrouter.store.copying.copy import Copier, Report, Step
from xrouter.store.copying.ends import Ends, open_ends, sqlite_path
from xrouter.store.copying.mark import read_mark
from xrouter.store.copying.source import Source
from xrouter.store.engine import StoreError, create_engine
from xrouter.wire import encode_json

_BATCH: Final = 10_000
_MOST_IN_BATCH: Final = 1_000_000
_MAX_PAUSE_S: Final = 1.0
# Of a copy with everything that belongs to it, on two cores: docs/moving-to-postgresql.md.
_ROWS_A_SECOND: Final = 20_000
_BYTES_FOR_BYTE: Final = 1.3
_DRAW_EVERY_S: Final = 0.2
_BAR: Final = 30
_TELL_EVERY_S: Final = 10.0


class Estimate(msgspec.Struct, frozen=True):
    """What a dry run tells; nothing is changed by it. `target_bytes`, `duration_s`: roughly."""

    source: str
    target: str
    rows: dict[str, int]
    source_bytes: int
    target_bytes: int
    duration_s: int
    journal: str


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "copy",
        help="move a SQLite store to PostgreSQL",
        description="Copy the SQLite store into an empty PostgreSQL database while gateways serve, compare both, and then"
        " move: from the last moment on the SQLite store refuses changes (docs/moving-to-postgresql.md).",
    )
    parser.add_argument("--to", metavar="URL", help="postgresql://user:password@host/database, or $NAME of a variable")
    parser.add_argument("--dry-run", action="store_true", help="look at both ends, count and estimate, change nothing")
    parser.add_argument("--resume", action="store_true", help="go on with a copy that was interrupted")
    parser.add_argument("--batch", type=_batch, default=_BATCH, metavar="N", help="rows at once (%(default)s)")
    parser.add_argument(
        "--max-pause",
        type=float,
        default=_MAX_PAUSE_S,
        metavar="SECONDS",
        help="how long nobody may write at the end (%(default)s)",
    )
    parser.add_argument("--switch-file", type=Path, metavar="FILE", help="write the URL there once the store has moved")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="the report, and as .json beside it (by the store: ….copied.txt)"
    )
    parser.add_argument("--back", action="store_true", help="go back to the SQLite store; the other one must be unused")
    parser.add_argument("--force", action="store_true", help="with --back: although the other one was used, or is gone")
    return parser


def run(args: argparse.Namespace) -> int:
    try:
        settings = load(args.config, os.environ)
        asyncio.run(_back(settings, args) if args.back else _copy(settings, args))
    except (ConfigError, StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def _copy(settings: Settings, args: argparse.Namespace) -> None:
    to = _url(args.to)
    async with open_ends(settings.store, to) as ends:
        if args.dry_run:
            _print_estimate(await _estimate(ends, settings), as_json=args.json)
            return
        progress = Progress(sys.stderr)
        copier = Copier(ends, _problems, progress.tell, batch=args.batch, max_pause_s=args.max_pause)
        try:
            report = await copier.run(resume=args.resume)
        finally:
            progress.close()
        text = report_text(report, _journal(ends.source.path, settings))
        print(encode_json(report).decode() if args.json else text)
        place = args.report or ends.source.path.with_name(f"{ends.source.path.name}.copied.txt")
        files = {place: text, place.with_name(f"{place.stem}.json"): encode_json(report).decode() + "\n"}
        if args.switch_file is not None:
            files = {args.switch_file: to, **files}
        _write(files)


def _write(files: dict[Path, str]) -> None:
    for path, text in files.items():
        try:
            write_private(path, text)
        except OSError as error:
            raise StoreError(f"the store has moved, but {path} cannot be written: {error.strerror}") from error


async def _back(settings: Settings, args: argparse.Namespace) -> None:
    engine = create_engine(settings.store)
    if engine.dialect.name != "sqlite":
        raise StoreError("--back needs the configuration that names the SQLite store")
    source = Source(sqlite_path(engine))
    try:
        with source.alone():
            done = await give_up(source, await read_mark(engine))
            if not done and args.force:
                await source.forget()
                done = True
    finally:
        await engine.dispose()
        await source.aclose()
    if not done:
        async with open_ends(settings.store, _url(args.to)) as ends:
            await go_back(ends)
    told = f"the store {source.path} is in use again"
    print(encode_json({"store": str(source.path), "in_use": True}).decode() if args.json else told)


async def _estimate(ends: Ends, settings: Settings) -> Estimate:
    await ends.under_way()
    rows = await ends.source.counts()
    size = ends.source.path.stat().st_size
    return Estimate(
        source=str(ends.source.path),
        target=ends.target.description,
        rows=rows,
        source_bytes=size,
        target_bytes=round(size * _BYTES_FOR_BYTE),
        duration_s=1 + sum(rows.values()) // _ROWS_A_SECOND,
        journal=_journal(ends.source.path, settings),
    )


def _print_estimate(estimate: Estimate, *, as_json: bool) -> None:
    if as_json:
        print(encode_json(estimate).decode())
        return
    rows = "".join(f"  {name:<20} {count:>12,}\n" for name, count in estimate.rows.items())
    print(
        f"{estimate.source} → {estimate.target}\n{rows}"
        f"{sum(estimate.rows.values()):,} rows, {estimate.source_bytes / 1e6:,.1f} MB: about {estimate.duration_s:,} s and"
        f" {estimate.target_bytes / 1e6:,.0f} MB in PostgreSQL. Nothing has been changed."
    )


def report_text(report: Report, journal: str) -> str:
    rows = "".join(f"  {table.name:<20} {table.rows:>12,}  {table.checksum}\n" for table in report.tables)
    return (
        f"{report.source} has moved to {report.target} ({datetime.now(UTC).isoformat(timespec='seconds')}, copy"
        f" {report.copy_id}).\n\n"
        f"  {'table':<20} {'rows':>12}  checksum, the same on both sides\n{rows}\n"
        f"{report.changes:,} rows that changed meanwhile were copied again. All rows were compared, and then by itself each"
        f" that changed after that. The ledger is proven on both sides.\n"
        f"It took {report.duration_s:,.1f} s; for {report.pause_s:.3f} s of it nobody could write.\n\n"
        f"The SQLite store is left as it was, and refuses changes. Gateways on it answer 503 to what costs something.\n"
        f"Now: set `store` to the new address and `ledger.journal: {journal}`, then restart.\n"
        f"To go back while the new store is unused: the same command with --back.\n"
    )


class Progress:
    """A bar on a terminal; otherwise a line for each thing that begins, and one now and then. Times are the watcher's."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._draws = out.isatty()
        self._began = time.monotonic()
        self._told = self._began
        self._counts_from: tuple[int, float] | None = None  # rows that were there when the counting began, and when
        self._what = ""

    def tell(self, step: Step) -> None:
        now = time.monotonic()
        begins, self._what = step.what != self._what, step.what
        if not begins and now - self._told < (_DRAW_EVERY_S if self._draws else _TELL_EVERY_S):
            return
        self._told = now
        rows = self._rows(step, now) if step.total else ""
        if self._draws:
            filled = "#" * (_BAR * step.done // max(step.total, 1))
            bar = f"[{filled:<{_BAR}}] " if step.total else ""
            print(f"\r\x1b[K{bar}{step.what}{rows}", end="", file=self._out, flush=True)
        else:
            print(f"{now - self._began:8.1f} s  {step.what}{rows}", file=self._out, flush=True)

    def close(self) -> None:
        if self._draws and self._what:
            print(f"\r\x1b[K{time.monotonic() - self._began:.1f} s", file=self._out, flush=True)

    def _rows(self, step: Step, now: float) -> str:
        if self._counts_from is None:
            self._counts_from = step.done, now
        done, began = self._counts_from
        rate = (step.done - done) / max(now - began, 1e-3)
        left = f", {(step.total - step.done) / rate:,.0f} s left" if rate else ""
        return f" ({step.done:,} of {step.total:,} rows, {rate:,.0f}/s{left})"


async def _problems(engine: AsyncEngine) -> tuple[str, ...]:
    return (await prove(engine)).problems


def _url(written: str | None) -> str:
    """A password need not be written where every process can read it."""
    if not written:
        raise StoreError("--to names the PostgreSQL database: postgresql://user:password@host/database")
    if written.startswith("$"):
        name = written[1:].strip("{}")
        if name not in os.environ:
            raise StoreError(f"--to names the variable {name}, which is not set")
        return os.environ[name]
    return written


def _journal(path: Path, settings: Settings) -> str:
    """Where gateways on the source write what they settle after the move."""
    return settings.ledger.journal or f"{path}.journal"


def _batch(written: str) -> int:
    number = int(written)
    if not 1 <= number <= _MOST_IN_BATCH:
        raise argparse.ArgumentTypeError(f"between 1 and {_MOST_IN_BATCH}")
    return number
