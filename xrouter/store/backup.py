"""A copy of a SQLite store while a gateway works on it: one state of it, whole and on the disk, or no file at all."""

import os
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xrouter.store.engine import StoreError, create_engine, describe

_STEP_PAGES: Final = 1024  # 4 MB: so that Ctrl-C is heard soon
_BESIDE: Final = ("-wal", "-journal")  # what SQLite reads with a file of that name, whatever is in it


@dataclass(frozen=True, slots=True)
class Backup:
    store: str
    size: int  # bytes
    schema: str | None


def back_up(url: str, to: Path, *, force: bool) -> Backup:
    """Copy the store `url` into the file `to`; a file that is there already is replaced only by `force`.

    A gateway that works on the store is not held up: the copy is of the state at its beginning, which SQLite's write-ahead
    log keeps for a reader, and readers and the writer do not wait for each other there. Copying without that one read
    transaction would begin anew with each commit of another process (sqlite.org, "Using the SQLite Online Backup API").

    Raises StoreError.
    """
    engine = create_engine(url)
    if engine.dialect.name != "sqlite":
        raise StoreError(
            f"the store {describe(engine)} is backed up by PostgreSQL's own programs: pg_dump, or pg_basebackup with an"
            " archive of its log (docs/postgresql.md)"
        )
    assert engine.url.database is not None
    source = Path(engine.url.database).absolute()
    if not source.is_file():
        raise StoreError(f"there is no store {source}")
    _refuse_to_replace(source, to, force=force)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{to.name}.", suffix=".partial", dir=to.absolute().parent)
        os.close(handle)
    except OSError as error:
        raise StoreError(f"nothing can be written to the folder {to.absolute().parent}: {error.strerror}") from error
    partial = Path(name)
    try:
        schema = _copy(source, partial)
        _sync(partial)
        os.replace(partial, to)
        _sync(to.absolute().parent)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"the store {source} cannot be backed up to {to}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return Backup(str(source), to.stat().st_size, schema)


def _refuse_to_replace(source: Path, to: Path, *, force: bool) -> None:
    if not to.exists():
        pass
    elif not to.is_file():
        raise StoreError(f"{to} is not a file")
    elif to.samefile(source):
        raise StoreError(f"{to} is the store itself")
    elif not force:
        raise StoreError(f"{to} is there already; --force replaces it")
    for ending in _BESIDE:
        beside = to.with_name(to.name + ending)
        if beside.exists():
            raise StoreError(f"{to} is in use, or was when its program was killed: {beside.name} is beside it")


def _copy(source: Path, to: Path) -> str | None:
    """Returns the schema's version, as it is in the copy."""
    with closing(sqlite3.connect(f"{source.as_uri()}?mode=rw", uri=True, isolation_level=None)) as origin:
        origin.execute("BEGIN")
        origin.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on it is this state that is read
        with closing(sqlite3.connect(to, isolation_level=None)) as copy:
            copy.execute("PRAGMA synchronous=OFF")  # the whole file is put on the disk at the end
            copy.execute("PRAGMA journal_mode=OFF")
            origin.backup(copy, pages=_STEP_PAGES)
    with closing(sqlite3.connect(to, isolation_level=None)) as copy:
        (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(f"the copy is corrupt, as the store may be: {found}")
        if copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone() is None:
            return None
        row: tuple[str] | None = copy.execute("SELECT version_num FROM alembic_version").fetchone()
        return None if row is None else row[0]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
