"""F29: a process that is killed at any statement of a request under an Idempotency-Key, its claim's and its ledger's."""

import asyncio
import signal
import sys
from hashlib import sha256
from pathlib import Path
from typing import Final

from kit import stores
from kit.claims import COST, request
from kit.keys import HandWorld
from kit.money import Money, grant, money

from xrouter import ids
from xrouter.ledger.idempotent import IdempotentRequests
from xrouter.world import RealWorld

CHILD: Final = Path(__file__).parents[1] / "kit" / "claims_child.py"
CREDITS: Final = 10**9
LEAST_STATEMENTS: Final = 12  # of a claim, a hold, a settlement and a kept answer, on either engine


async def killed_one_by_one(url: str) -> list[tuple[int, int, str]]:
    """Crash point, exit code and what was told, of each process."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, str(CHILD), url, "0", stdout=pipe)
    out, _ = await child.communicate()
    assert child.returncode == 0
    lines = [line.split(" ", 2) for line in out.decode().splitlines()]
    return [(int(crash_at), int(code), told) for crash_at, code, told in lines]


async def test_f29_killed_at_each_statement_a_name_is_charged_once(tmp_path: Path) -> None:
    """Whoever asks again, after the lease, is charged or told of the charge, never both.

    Fails if a dead holder's claim is passed on without a look at the ledger, and if it is never passed on.
    """
    async with money(tmp_path, RealWorld()) as books:
        await books.ledger.transfer(grant(CREDITS))
        path = books.path
    ends = await killed_one_by_one(stores.current.url(path))
    assert [crash_at for crash_at, _, _ in ends] == list(range(len(ends)))
    assert [code for _, code, _ in ends] == [-signal.SIGKILL] * (len(ends) - 1) + [0]
    assert len(ends) > LEAST_STATEMENTS
    later = HandWorld()
    later.wall_s = RealWorld().now() + 61
    seen = set()
    for crash_at, _, told in ends:
        name, place = f"name-{crash_at}", path if stores.current.server else path.with_name(f"{path.name}.{crash_at}")
        async with money(tmp_path, later, name=place.name) as books:  # proves the ledger at its end
            requests = IdempotentRequests(books.engine, books.ledger, later)
            before = charged(books, name)
            again = await request(requests, books.ledger, ids.generation_id(later), name)
            once_more = await request(requests, books.ledger, ids.generation_id(later), name)
            await requests.aclose()
            seen.add((before, again.kind))
            assert told == "" or before == 1, "told that it was charged, and it is not"
            assert again.kind in (("replayed", "done") if before else ("charged",)), (crash_at, before, again)
            assert once_more.kind in ("replayed", "done"), (crash_at, once_more)
            assert charged(books, name) == 1
            assert (await books.account()).balance_nano == CREDITS - COST * charges(books)
            if not stores.current.server:
                assert charges(books) == 1
            assert set((await books.holds()).values()) <= {"settled", "released", "expired"}
    if stores.current.server:  # all in one database
        async with money(tmp_path, later) as books:
            assert charges(books) == len(ends)
    assert seen == {(0, "charged"), (1, "done"), (1, "replayed")}, "not every kind of end was met"


def charged(books: Money, name: str) -> int:
    """How often the name has been charged so far."""
    digest = sha256(name.encode()).hexdigest()
    found = books.rows(
        "SELECT count(*) FROM generations JOIN idempotent_requests ON generations.id = idempotent_requests.generation_id"
        f" WHERE charged_nano > 0 AND name_digest = '{digest}'"
    )
    return int(found[0][0])


def charges(books: Money) -> int:
    return int(books.rows("SELECT count(*) FROM entries WHERE kind = 'charge'")[0][0])
