"""A process that makes one request under an Idempotency-Key and is killed at one of its statements, or not.

python claims_child.py STORE FIRST: with the crash points FIRST, FIRST + 1, … a process each, until one lives to its end.
Tells each one's crash point, exit code and what it had told. Each has the name `name-K`; on SQLite, a copy STORE.K too.
"""

import asyncio
import os
import shutil
import sys
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from kit.claims import request
from kit.ledger_child import CrashPoint
from sqlalchemy import event

from xrouter import ids
from xrouter.ledger.books import Books, SqliteBooks
from xrouter.ledger.idempotent import IdempotentRequests
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.pg_books import PgBooks
from xrouter.store.engine import create_engine
from xrouter.store.pg_servers import PgServers
from xrouter.world import RealWorld


async def main(store: str, crash_at: int) -> None:
    world, crash = RealWorld(), CrashPoint()
    engine = create_engine(store)
    sqlite = store.startswith("sqlite:")
    books: Books
    if sqlite:
        books = SqliteBooks(Path(store.removeprefix("sqlite:///")), world.now, crash)
    else:
        books = PgBooks(PgServers(store), world.now, crash)
    ledger = Ledger(books, world, lease_s=60)
    await ledger.start()
    requests = IdempotentRequests(engine, ledger, world)
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *call: crash(call[2]))
    event.listen(engine.sync_engine, "commit", lambda connection: crash("COMMIT"))
    crash.left = crash_at
    ended = await request(requests, ledger, ids.generation_id(world), f"name-{crash_at}")
    os.write(1, f"{ended.kind} {ended.generation_id}".encode())


def sweep(store: str, first: int) -> None:
    for crash_at in count(first):
        place = store
        if store.startswith("sqlite:"):
            place = f"{store}.{crash_at}"
            shutil.copy(store.removeprefix("sqlite:///"), place.removeprefix("sqlite:///"))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(writing, 1)
            asyncio.run(main(place, crash_at))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(crash_at, code, told, flush=True)
        if code == 0:
            return


if __name__ == "__main__":
    sweep(sys.argv[1], int(sys.argv[2]))
