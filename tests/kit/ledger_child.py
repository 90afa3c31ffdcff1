"""A process that works with a ledger and is killed by its test: python ledger_child.py STORE COMMAND [ARGUMENTS].

STORE is SQLite's file, or the URL of a PostgreSQL database whose journal is `money.db.journal` in the working directory.

`settle N`: hold and settle N generations, telling each one's end on stdout only after it is durable.
`hold N AMOUNT`: ask for N holds at once when a line comes on stdin; tell how many were granted.
`XROUTER_CRASH_AT=K` kills the process with SIGKILL before the K-th statement that the ledger runs after its start.

`sweep FROM TO`: `settle 1 1` in processes of its own, forked because that is quick, each with its crash point K; tells each
one's K, end, and what it had told. Each works on a copy of SQLite's file called STORE.K, all on the one of PostgreSQL.
"""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from kit.money import ACCOUNT, KEY, settlement

from xrouter import ids
from xrouter.errors import PaymentRequired
from xrouter.ledger.books import Books, SqliteBooks
from xrouter.ledger.journal import Journal
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.pg_books import PgBooks
from xrouter.store.pg_servers import PgServers
from xrouter.world import RealWorld

_NEVER = 10**9


class CrashPoint:
    """Counts statements; at the chosen one the process is gone, without a word to anybody."""

    def __init__(self) -> None:
        self.left = _NEVER

    def __call__(self, statement: str) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def settle(ledger: Ledger, count: int, at_once: int) -> None:
    world = RealWorld()

    async def client(share: int) -> None:
        for _ in range(share):
            one = ids.generation_id(world)
            await ledger.hold(one, ACCOUNT, KEY, wanted_nano=2_000, least_nano=2_000)
            settled = await ledger.settle(settlement(one, 1_000), delivered=True)
            # One write: a line is either whole or not there.
            os.write(1, f"{one} {settled.charged_nano}\n".encode())

    await asyncio.gather(*(client(count // at_once) for _ in range(at_once)))


async def hold(ledger: Ledger, count: int, amount: int) -> None:
    world = RealWorld()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

    async def one() -> bool:
        try:
            await ledger.hold(ids.generation_id(world), ACCOUNT, KEY, wanted_nano=amount, least_nano=amount)
        except PaymentRequired:
            return False
        return True

    granted = await asyncio.gather(*(one() for _ in range(count)))
    print(sum(granted), flush=True)


def sweep(store: str, first: int, last: int) -> None:
    for crash_at in range(first, last + 1):
        copy = store
        if not store.startswith("postgresql:"):
            copy = f"{store}.{crash_at}"
            shutil.copy(store, copy)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(writing, 1)
            os.environ["XROUTER_CRASH_AT"] = str(crash_at)
            asyncio.run(main(copy, "settle", [1, 1]))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = pipe.read().replace("\n", " ")
        _, status = os.waitpid(child, 0)
        print(crash_at, os.waitstatus_to_exitcode(status), told, flush=True)


async def main(store: str, command: str, arguments: list[int]) -> None:
    world, crash = RealWorld(), CrashPoint()
    books: Books
    if store.startswith("postgresql:"):
        folder = Path("money.db.journal")
        books = PgBooks(PgServers(store), world.now, crash)
    else:
        folder = Path(f"{store}.journal")
        books = SqliteBooks(Path(store), world.now, crash)
    ledger = Ledger(books, world, lease_s=60, journal=Journal(folder, ids.time_ordered(world)))
    await ledger.start()
    crash.left = int(os.environ.get("XROUTER_CRASH_AT", _NEVER))
    await {"settle": settle, "hold": hold}[command](ledger, *arguments)
    await ledger.aclose()


if __name__ == "__main__":
    place, asked, numbers = sys.argv[1], sys.argv[2], [int(argument) for argument in sys.argv[3:]]
    if asked == "sweep":
        sweep(place, *numbers)
    else:
        asyncio.run(main(place, asked, numbers))
