"""`xrouter.store.copying`: a store in use, copied into PostgreSQL, compared row by row without any of the product's ways."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from kit import stores
from kit.money import ACCOUNT, COSTLY, assert_proven, grant, settlement
from kit.postgres_server import PostgresServer
from sqlalchemy import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter import ids
from xrouter.auth.issue import issue
from xrouter.errors import StoreUnavailable
from xrouter.ledger.ledger import KEEP_ALL, Ledger
from xrouter.ledger.opening import open_ledger
from xrouter.ledger.operations import Prune, Transfer
from xrouter.ledger.proof import prove
from xrouter.store.copying.back import give_up, go_back
from xrouter.store.copying.copy import Copier, Report, Step
from xrouter.store.copying.ends import Ends, open_ends
from xrouter.store.copying.tables import TABLES
from xrouter.store.engine import StoreError, create_engine, writing
from xrouter.store.key import KeyChanges, NewKey
from xrouter.store.keys import KeyStore
from xrouter.store.migrate import downgrade, open_store
from xrouter.store.schema import idempotent_answers, idempotent_requests
from xrouter.world import RealWorld

pytestmark = pytest.mark.sqlite_only
PATIENCE_S = 60.0  # how long the pause may be on a machine that is busy with other tests
WORLD = RealWorld()


@pytest.fixture
async def store(tmp_path: Path) -> str:
    """Every table has rows, every column a value somewhere and, where it may be, none elsewhere."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    engine = await open_store(url)
    keys = KeyStore(engine, WORLD)
    first = (
        await issue(keys, NewKey(name="Ключ «A»", account=ACCOUNT, models=("a/b", "c"), networks=("10.0.0.0/8",)))
    ).key
    other = (
        await issue(keys, NewKey(name="B", tier="free", management=True, limit_nano=10**12, limit_reset="daily"))
    ).key
    await keys.rotate(first.hash, new_hash="f" * 64, new_label="label", grace_s=0)
    await keys.update(other.hash, KeyChanges(disabled=True))
    async with ledger_on(engine, tmp_path) as ledger:
        await ledger.transfer(grant(10**12, key="gift"))
        names = [ids.generation_id(WORLD) for _ in range(30)]
        for number, name in enumerate(names):
            await ledger.hold(name, ACCOUNT, first.hash, wanted_nano=9_000, least_nano=9_000)
            cost = None if number % 7 == 0 else 1_000 * number
            price = {"price": COSTLY, "provider_cost_nano": 500 * number} if cost and number % 5 == 0 else {}
            if number % 3:
                await ledger.settle(settlement(name, cost, key=first.hash, **cast(Any, price)), delivered=True)
        await ledger.release(names[3])
        refund = {"kind": "refund", "amount_nano": 500, "reason": "slow", "author": "me", "generation_id": names[8]}
        await ledger.transfer(Transfer(account=ACCOUNT, **cast(Any, refund)))
    engine = create_engine(url)
    async with writing(engine) as connection:
        for table in (idempotent_answers, idempotent_requests):
            row = {column.name: 1 if column.name.endswith("_us") else column.name[:20] for column in table.columns}
            await connection.execute(insert(table).values(row))
        await connection.exec_driver_sql("INSERT INTO retention VALUES ('hours', '00020000')")
    await engine.dispose()
    assert all(stores.rows(url, f"SELECT count(*) FROM {table.name}") != [(0,)] for table in TABLES)
    return url


@pytest.fixture
def empty(postgres: PostgresServer) -> str:
    return postgres.new_database()


@asynccontextmanager
async def ledger_on(engine: AsyncEngine, folder: Path, retention: Prune = KEEP_ALL) -> AsyncIterator[Ledger]:
    """Closes the engine too."""
    ledger = open_ledger(engine, WORLD, lease_s=60, journal=folder / "journal", retention=retention)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.aclose()
        await engine.dispose()


async def problems(engine: AsyncEngine) -> tuple[str, ...]:
    return (await prove(engine)).problems


async def copy(
    url: str,
    to: str,
    *,
    resume: bool = False,
    tell: Callable[[Step], object] = str,
    batch: int = 7,
    max_pause_s: float = PATIENCE_S,
    through: Callable[[Ends], Ends] = lambda ends: ends,
) -> Report:
    async with open_ends(url, to) as ends:
        return await Copier(through(ends), problems, tell, batch=batch, max_pause_s=max_pause_s).run(resume=resume)


def content(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables; truth is 0 and 1 on SQLite."""
    return {
        table.name: sorted(
            (
                tuple(int(value) if isinstance(value, bool) else value for value in row)
                for row in stores.rows(url, f"SELECT {', '.join(table.columns)} FROM {table.name}")
            ),
            key=repr,
        )
        for table in TABLES
    }


async def proven(url: str) -> None:
    engine = await open_store(url, reading=True)
    await assert_proven(engine)
    await engine.dispose()


async def test_all_rows_are_there_and_the_ledger_goes_on(store: str, empty: str, tmp_path: Path) -> None:
    before = content(store)
    steps: list[Step] = []
    report = await copy(store, empty, tell=steps.append)
    assert content(store) == before
    assert content(empty) == before
    assert {table.name: table.rows for table in report.tables} == {name: len(rows) for name, rows in before.items()}
    assert max(step.done for step in steps) == sum(len(rows) for rows in before.values())
    for url in (store, empty):
        await proven(url)
    async with ledger_on(await open_store(empty, serving=True), tmp_path) as ledger:
        assert await ledger.transfer(grant(10**12, key="gift"))  # given before: its idempotency key has moved with it
        await ledger.transfer(grant(7))
    assert stores.rows(empty, "SELECT max(id), count(*) FROM entries") == [(len(before["entries"]) + 1,) * 2]
    await proven(empty)


async def test_a_store_that_has_moved_refuses_every_change(store: str, empty: str, tmp_path: Path) -> None:
    """Fails without the triggers: a ledger that has been running writes on, and money is in two places."""
    engine = await open_store(store)
    async with ledger_on(await open_store(store), tmp_path) as ledger:
        await ledger.hold("held", ACCOUNT, "k" * 64, wanted_nano=1_000, least_nano=1_000)
        await copy(store, empty)
        before = content(store)
        with pytest.raises(StoreUnavailable) as refused:
            await ledger.hold("late", ACCOUNT, "k" * 64, wanted_nano=1_000, least_nano=1_000)
        assert refused.value.retry_after_s == 1
        assert "has moved to postgresql://" in (refused.value.detail or "")
        await ledger.settle(settlement("held", 1_000), delivered=True)  # into the journal
        with pytest.raises(OperationalError, match="this store has moved to"):
            await issue(KeyStore(engine, WORLD), NewKey(name="late"))
        for serving in (False, True):
            with pytest.raises(StoreError, match=r"has moved to postgresql://.*: name that one in `store`"):
                await open_store(store, serving=serving)
    await engine.dispose()
    assert content(store) == before
    async with ledger_on(await open_store(empty), tmp_path):  # settles what it finds in the journal
        pass
    assert stores.rows(empty, "SELECT charged_nano FROM generations WHERE id = 'held'") == [(1_000,)]
    await proven(empty)


async def test_what_changes_while_it_is_copied_arrives_as_it_is_in_the_end(
    store: str, empty: str, tmp_path: Path
) -> None:
    """Fails without any one of the notes of insertions, updates and deletions."""
    chance = random.Random(5)
    engine = await open_store(store)
    keys = KeyStore(engine, WORLD)
    moved = asyncio.Event()
    changed = 0

    async def go_on(ledger: Ledger) -> None:
        nonlocal changed
        key, opened = "w" * 64, []
        while not moved.is_set():
            name = ids.generation_id(WORLD)
            try:
                await ledger.hold(name, ACCOUNT, key, wanted_nano=2_000, least_nano=2_000)
                opened.append(name)
                ended = opened.pop(chance.randrange(len(opened)))
                if chance.random() < 0.5:
                    await ledger.settle(settlement(ended, 1_000, key=key), delivered=True)
                else:
                    await ledger.release(ended)
                issued = await issue(keys, NewKey(name="passing", account=ACCOUNT))
                await ledger.prune()
                await keys.delete(issued.key.hash)
            except (StoreUnavailable, OperationalError):
                return  # it has moved
            changed += 1
            await asyncio.sleep(0.005)  # a load that leaves the machine some time for the copy

    async with ledger_on(engine, tmp_path, Prune(1_000, 1_000)) as ledger:
        writer = asyncio.create_task(go_on(ledger))
        report = await copy(store, empty, batch=100)
        moved.set()
        await writer
    assert changed > 3
    assert report.changes > 3 * changed
    assert content(empty) == content(store)
    for url in (store, empty):
        await proven(url)


class Killed(Exception):
    """Instead of a SIGKILL: nothing of the copy's own runs after it but the closing of its connections."""


class Mortal:
    """An end of a copy whose user dies at one of its calls, before it or after it. `calls` counts for both ends."""

    calls = 0
    dies_at = 0

    def __init__(self, end: object, *, after: bool) -> None:
        self._end = end
        self._after = after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._end, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*arguments: Any) -> Any:
            Mortal.calls += 1
            dies = Mortal.calls == Mortal.dies_at
            if dies and not self._after:
                raise Killed
            result = await found(*arguments)
            if dies:
                raise Killed
            return result

        return call


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_any_point_and_resumed_it_ends_with_the_same_rows(store: str, empty: str, after: bool) -> None:
    """Killed once at every call to either end, with a change of the source in between each time, as long as it takes any.

    Fails if the target is complete before the source has moved.
    """
    engine = await open_store(store)
    keys = KeyStore(engine, WORLD)
    begun, changed, deaths = False, 0, 0

    def mortal(ends: Ends) -> Ends:
        source, target = (cast(Any, Mortal(end, after=after)) for end in (ends.source, ends.target))
        return replace(ends, source=source, target=target)

    while True:
        Mortal.calls, Mortal.dies_at = 0, deaths + 1
        try:
            await copy(store, empty, resume=begun, through=mortal, batch=20)
            break
        except Killed:
            deaths += 1
        except StoreError:
            break  # it died in one of the last calls, and all was done already: so it is shown below
        begun = stores.rows(empty, "SELECT count(*) FROM pg_class WHERE relname = 'copying'") != [(0,)]
        with suppress(OperationalError):
            await issue(keys, NewKey(name=f"number {changed}", account=ACCOUNT))
            changed += 1
    await engine.dispose()
    assert deaths > 2 * len(TABLES)
    assert changed > 2 * len(TABLES)
    assert content(empty) == content(store)
    await (await open_store(empty, serving=True)).dispose()
    await proven(empty)
    with pytest.raises(StoreError, match="has moved to"):
        await open_store(store)


async def test_a_batch_and_how_far_it_goes_are_one_transaction(store: str, empty: str) -> None:
    """Fails where they are two: resumed, the batch is copied again and meets its own rows."""

    def refuse(step: Step) -> None:
        if step.what == "copying entries":
            stores.execute(
                empty,
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN IF NEW.subject = 'holds' THEN RAISE EXCEPTION 'the disk is full'; END IF; RETURN NEW; END $$;"
                "CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON copy_progress FOR EACH ROW EXECUTE FUNCTION refuse()",
            )

    with pytest.raises(StoreError, match="RaiseError: the disk is full"):
        await copy(store, empty, tell=refuse)
    stores.execute(empty, "DROP TRIGGER refuse ON copy_progress")
    await copy(store, empty, resume=True)
    assert content(empty) == content(store)


async def test_a_connection_that_is_lost_is_one_sentence_and_the_source_serves_on(
    store: str, empty: str, postgres: PostgresServer
) -> None:
    def lose(step: Step) -> None:
        if step.what == "copying holds":
            postgres.disconnect(empty.rpartition("/")[2])

    with pytest.raises(StoreError, match=r"^the store postgresql://[^\n]*$"):
        await copy(store, empty, tell=lose)
    await (await open_store(store, serving=True)).dispose()
    with pytest.raises(StoreError, match="is being filled from sqlite"):
        await open_store(empty)
    with pytest.raises(StoreError, match="has begun; --resume goes on with it"):
        await copy(store, empty)
    await copy(store, empty, resume=True)
    assert content(empty) == content(store)


async def test_a_gateway_that_waits_for_the_copy_goes_on_as_soon_as_it_is_complete(store: str, empty: str) -> None:
    waiting: list[asyncio.Task[AsyncEngine]] = []

    def wait(step: Step) -> None:
        if step.what == "copying holds" and not waiting:
            waiting.append(asyncio.create_task(open_store(empty, serving=True)))
        assert not (waiting and waiting[0].done())

    await copy(store, empty, tell=wait)
    engine = await asyncio.wait_for(waiting[0], PATIENCE_S)
    await engine.dispose()


async def test_the_pause_is_not_longer_than_allowed(store: str, empty: str) -> None:
    with pytest.raises(StoreError, match=r"could not be copied within 0 s.*nothing has moved"):
        await copy(store, empty, max_pause_s=0)
    engine = await open_store(store, serving=True)
    await issue(KeyStore(engine, WORLD), NewKey(name="still in use"))
    await engine.dispose()
    await copy(store, empty, resume=True)
    assert content(empty) == content(store)


async def test_a_copy_that_differs_is_not_moved_to(store: str, empty: str) -> None:
    def spoil(step: Step) -> None:
        if step.what == "comparing usage_days":
            stores.execute(empty, "UPDATE usage_days SET requests = requests + 1")

    with pytest.raises(StoreError, match=r"the copy differs: the \d+ rows of usage_days are not the same"):
        await copy(store, empty, tell=spoil)
    await (await open_store(store, serving=True)).dispose()


async def test_a_row_that_is_lost_after_the_comparison_of_all_is_missed(store: str, empty: str) -> None:
    """Fails where what came after the comparison of whole tables is not compared by itself."""

    def spoil(step: Step) -> None:
        if step.what == "copying the last changes":
            stores.execute(store, "INSERT INTO revisions VALUES ('lost', 1)")
            stores.execute(
                empty,
                "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
                "CREATE TRIGGER lose BEFORE INSERT ON revisions FOR EACH ROW EXECUTE FUNCTION lose()",
            )

    with pytest.raises(StoreError, match=r"the copy differs: 1 rows of revisions, such as \('lost',\)"):
        await copy(store, empty, tell=spoil)
    await (await open_store(store, serving=True)).dispose()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("INSERT INTO holders VALUES ('someone', 1)", "is not empty: holders"),
        ("UPDATE accounts SET balance_nano = 1 WHERE name = '@revenue'", "is not empty: accounts"),
        ("DROP TABLE alembic_version; DROP TABLE IF EXISTS nothing", "is not empty: accounts, api_keys, entries"),
        ("UPDATE alembic_version SET version_num = '0001'", "has schema 0001, a copy needs"),
    ],
)
async def test_a_target_that_is_not_empty_is_left_as_it_is(
    store: str, postgres: PostgresServer, tmp_path: Path, spoil: str, told: str
) -> None:
    with stores.working_on(postgres) as on_postgresql:
        url = on_postgresql.url(tmp_path / "used")
        stores.execute(url, spoil)
        before = content(url)
        with pytest.raises(StoreError, match=told):
            await copy(store, url)
        assert content(url) == before
    assert stores.rows(store, "SELECT count(*) FROM sqlite_master WHERE name LIKE 'cop%'") == [(0,)]


async def test_what_cannot_be_copied_is_one_sentence(
    store: str, empty: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    nowhere = "postgresql://someone:hidden@127.0.0.1:1/database"
    for url, to, told in (
        (store, nowhere, "postgresql://someone@127.0.0.1:1/database: ConnectionRefusedError"),
        (store, store, "a copy goes into PostgreSQL"),
        (empty, empty, "is in PostgreSQL already"),
        (f"sqlite:///{tmp_path / 'none.db'}", empty, "there is no store"),
    ):
        with pytest.raises(StoreError, match=told) as error:
            await copy(url, to)
        assert "hidden" not in str(error.value)
    async with open_ends(store, empty):
        with pytest.raises(StoreError, match="another process copies a store in the folder"):
            await copy(store, empty)
    await copy(store, empty)
    with pytest.raises(StoreError, match=r"has moved to postgresql://.* already"):
        await copy(store, empty, resume=True)
    with pytest.raises(StoreError, match="has moved already, to postgresql://"):
        await copy(store, postgres.new_database())
    engine = create_engine(store)
    await downgrade(engine, "0005")
    await engine.dispose()
    with pytest.raises(StoreError, match="has schema 0005, a copy needs"):
        await copy(store, postgres.new_database())


async def test_the_way_back_from_a_store_that_nobody_has_used(store: str, empty: str) -> None:
    shape = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    before, schema = content(store), stores.rows(store, shape)
    await copy(store, empty)
    async with open_ends(store, empty) as ends:
        await go_back(ends)
    assert content(store) == before
    assert stores.rows(store, shape) == schema
    engine = await open_store(store, serving=True)
    await issue(KeyStore(engine, WORLD), NewKey(name="again in use"))
    await engine.dispose()
    with pytest.raises(StoreError, match="was left again for"):
        await open_store(empty, serving=True)
    with pytest.raises(Exception, match="this store was left again for"):
        stores.execute(empty, "INSERT INTO holders VALUES ('late', 1)")


async def test_no_way_back_from_a_store_that_was_used(store: str, empty: str, tmp_path: Path) -> None:
    """Fails without the comparison: what was charged in the new store would be forgotten."""
    await copy(store, empty)
    async with ledger_on(await open_store(empty), tmp_path) as ledger:
        await ledger.transfer(grant(5))
    async with open_ends(store, empty) as ends:
        with pytest.raises(StoreError, match="has been used since: holders differs"):
            await go_back(ends)
    with pytest.raises(StoreError, match="has moved to"):
        await open_store(store)
    await (await open_store(empty, serving=True)).dispose()


async def test_a_copy_that_was_given_up_leaves_nothing_in_the_source(store: str, empty: str) -> None:
    shape = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    schema = stores.rows(store, shape)
    with pytest.raises(StoreError):
        await copy(store, empty, max_pause_s=0)
    async with open_ends(store, empty) as ends:
        assert await give_up(ends.source, ends.source_mark)
    assert stores.rows(store, shape) == schema
    with pytest.raises(StoreError, match="is of another copy"):
        await copy(store, empty, resume=True)
