"""PostgreSQL away, frozen, restarted, promoted, or cutting a connection at the worst moment, with real servers."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from kit import stores
from kit.fault_proxy import Fault, FaultProxy
from kit.money import Money, grant, money, settlement
from kit.postgres_server import USER, PostgresServer, server_folder

from xrouter.errors import StoreUnavailable
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.pg_batch import WRITE_LOCK
from xrouter.ledger.pg_books import PgBooks
from xrouter.store.pg_servers import Connection, PgServers
from xrouter.world import RealWorld

pytestmark = pytest.mark.postgresql_only
FAILOVERS = int(os.environ.get("XROUTER_FAILOVERS", "2"))  # 50 take about eight minutes
PATIENCE_S = 30.0  # for what takes well under a second on an idle machine
REFUSED_S = 1.2  # F14: nobody waits longer
SLACK_S = 12.0  # what a busy machine adds to that


@pytest.fixture(scope="module")
def server_to_stop() -> Iterator[PostgresServer]:
    with stores.server_with_template() as server:
        yield server


@pytest.fixture
def own_server(server_to_stop: PostgresServer) -> PostgresServer:
    """A server that a test may stop, and leave so."""
    if not server_to_stop.is_running:
        server_to_stop.start()
    return server_to_stop


@asynccontextmanager
async def money_on(server: PostgresServer, folder: Path) -> AsyncIterator[Money]:
    with stores.working_on(server):
        async with money(folder, RealWorld()) as books:
            await books.ledger.transfer(grant(10**9))
            yield books


async def eventually_held(books: Money, prefix: str) -> None:
    """The ledger takes holds again, by itself."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    for attempt in range(10**6):
        try:
            await books.hold(f"{prefix}-{attempt}", 1_000)
        except StoreUnavailable:
            assert asyncio.get_running_loop().time() < deadline, "it does not come back"
            await asyncio.sleep(0.05)
        else:
            return


def journals(books: Money) -> list[Path]:
    folder = books.path.with_name(books.path.name + ".journal")
    return [path for path in folder.glob("*.settlements") if path.stat().st_size]


async def test_f13_restarted_between_two_operations_nobody_notices(own_server: PostgresServer, tmp_path: Path) -> None:
    """Fails if the connection that the restart has cut is not replaced within the operation that meets it."""
    async with money_on(own_server, tmp_path) as books:
        await books.hold("g1", 2_000)
        own_server.stop()
        own_server.start()
        settled = await books.ledger.settle(settlement("g1", 2_000), delivered=True)
        assert settled.charged_nano == 2_000
        assert journals(books) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_f13_stopped_nothing_is_held_and_what_was_finished_is_kept_for_later(
    own_server: PostgresServer, tmp_path: Path, how: int
) -> None:
    """Fails if `settle` raises instead of journaling."""
    async with money_on(own_server, tmp_path) as books:
        await books.hold("g1", 2_000)
        own_server.stop(how)
        with pytest.raises(StoreUnavailable) as caught:
            await books.hold("g2", 1_000)
        assert caught.value.retry_after_s == 1.0
        settled = await books.ledger.settle(settlement("g1", 2_000), delivered=True)
        assert settled.charged_nano == 2_000
        assert len(journals(books)) == 1
        own_server.start()
        await eventually_held(books, "after")
        assert await books.ledger.recover_journals() == 1
        assert await books.ledger.recover_journals() == 0
        await books.ledger.catch_up()
        assert (await books.account()).balance_nano == 10**9 - 2_000
        states = await books.holds()
        # A crash may take the last holds with it, as a power cut does: the charge is then an overrun.
        assert states.pop("g1", "settled") == "settled"
        for one in states:
            await books.ledger.release(one)


async def test_f14_frozen_everybody_is_refused_in_time_and_the_ledger_comes_back(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    """Fails without the deadline of a batch: a frozen server answers nothing, so its own time-outs do not end the wait."""
    loop = asyncio.get_running_loop()
    async with money_on(own_server, tmp_path) as books:
        own_server.freeze()
        try:
            for attempt in range(2):  # on the old connection, then on one that cannot be made
                began = loop.time()
                with pytest.raises(StoreUnavailable):
                    await books.hold(f"g{attempt}", 1_000)
                assert loop.time() - began < REFUSED_S + SLACK_S
        finally:
            own_server.thaw()
        await eventually_held(books, "after")
        await books.ledger.catch_up()
        for one, state in (await books.holds()).items():
            if state == "open":
                await books.ledger.release(one)


async def test_f14_a_write_lock_that_another_keeps_is_waited_for_no_longer_than_a_second(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Fails without `lock_timeout`; and without `idle_in_transaction_session_timeout` whoever has stopped keeps the lock."""
    loop = asyncio.get_running_loop()
    async with money(tmp_path, RealWorld()) as books:
        await books.ledger.transfer(grant(10_000))
        other = await PgServers(stores.current.url(books.path)).connect()
        await other.execute("BEGIN; " + WRITE_LOCK)
        began = loop.time()
        with pytest.raises(StoreUnavailable, match="database") as caught:
            await books.hold("g1", 1_000)
        assert loop.time() - began < REFUSED_S + SLACK_S
        assert "lock timeout" in (caught.value.detail or "")
        await other.execute("COMMIT")
        assert await books.hold("g2", 1_000) == 1_000
        await books.ledger.release("g2")
        await other.close()


async def test_f14_a_process_that_stops_in_the_middle_of_a_batch_keeps_the_others_out_for_a_second_only(
    tmp_path: Path,
) -> None:
    """Fails without `idle_in_transaction_session_timeout`."""
    async with money(tmp_path, RealWorld()) as books:
        await books.ledger.transfer(grant(10_000))
        stopped = PgBooks(PgServers(stores.current.url(books.path)), RealWorld().now)
        session = await stopped._link.session()
        await session.run("BEGIN; SET LOCAL idle_in_transaction_session_timeout = 1000; " + WRITE_LOCK)
        await eventually_held(books, "g")
        for one in await books.holds():
            await books.ledger.release(one)
        await stopped.aclose()


async def test_f14_deadlocks_and_serialization_failures_are_tried_again(tmp_path: Path) -> None:
    """Fails if such a failure is answered with 503 at once: the transaction is known not to be there."""
    async with money(tmp_path, RealWorld()) as books:
        await books.ledger.transfer(grant(10_000))
        books.spoil(
            "CREATE SEQUENCE failures; CREATE FUNCTION fail_twice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF nextval('failures') <= 2 THEN RAISE EXCEPTION 'planted' USING ERRCODE = '40001'; END IF; RETURN NEW;"
            " END $$;"
            "CREATE TRIGGER planted BEFORE INSERT ON holds FOR EACH ROW EXECUTE FUNCTION fail_twice()"
        )
        assert await books.hold("g1", 1_000) == 1_000
        assert books.rows("SELECT last_value FROM failures") == [(3,)]
        await books.ledger.release("g1")


class Routes(PgServers):
    """A connection goes by the first of these URLs, the next by the second, and so on by the last."""

    def __init__(self, *urls: str) -> None:
        super().__init__(urls[-1])
        self._routes = [PgServers(url) for url in urls]

    async def connect(self) -> Connection:
        route = self._routes.pop(0) if len(self._routes) > 1 else self._routes[0]
        return await route.connect()


@pytest.mark.parametrize("arrives", [False, True])
async def test_f15_a_commit_whose_answer_is_lost_is_looked_up_and_never_done_twice(
    postgres: PostgresServer, tmp_path: Path, arrives: bool
) -> None:
    """The connection ends in a settlement's COMMIT: before the server gets it, or before the client gets its answer.

    Fails if the batch is committed again as it was the first time, or if a lost answer counts as a refusal.
    """
    cuts: list[str] = []

    def cut(sql: str) -> None:
        if "COMMIT" in sql and not cuts:
            cuts.append(sql)
            if arrives:
                proxy.set(Fault(cut_after=0, cut="reset"))
            else:
                cutting._link.drop()

    async with money(tmp_path, RealWorld()) as books, FaultProxy(postgres.port) as proxy:
        await books.ledger.transfer(grant(10_000))
        await books.hold("g1", 2_000)
        url = stores.current.url(books.path)
        by_proxy = url.replace(f":{postgres.port}/", f":{proxy.port}/")
        cutting = PgBooks(Routes(by_proxy, url), RealWorld().now, cut)
        ledger = Ledger(cutting, RealWorld(), lease_s=60)
        settled = await ledger.settle(settlement("g1", 2_000), delivered=True)
        assert len(cuts) == 1
        assert (settled.charged_nano, settled.repeated) == (2_000, arrives)
        assert len(books.rows("SELECT 1 FROM entries WHERE kind = 'charge'")) == 1
        await ledger.aclose()


async def test_f15_backends_that_an_administrator_ends_all_the_time_lose_and_double_nothing(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Fails if the end of a connection in the middle of a batch loses the batch, or does it twice."""
    async with money(tmp_path, RealWorld()) as books:
        await books.ledger.transfer(grant(10**9))
        database = stores.current.url(books.path).rpartition("/")[2]
        work = asyncio.create_task(settle_many(books, clients=8, each=10))
        kills = 0
        while not work.done():
            await asyncio.to_thread(postgres.disconnect, database)
            kills += 1
        acknowledged = await work
        assert kills > 0
        await books.ledger.recover_journals()
        await books.ledger.catch_up()
        assert_charged_once(books, acknowledged)


async def settle_many(books: Money, *, clients: int, each: int) -> set[str]:
    """Generations that were settled, as their clients were told. Those who are refused go on with another one."""
    acknowledged: set[str] = set()

    async def client(name: int) -> None:
        done = attempt = 0
        while done < each:
            attempt += 1
            one = f"c{name}-{attempt}"
            try:
                await books.hold(one, 1_000)
            except StoreUnavailable:
                await asyncio.sleep(0.02)
                continue
            await books.ledger.settle(settlement(one, 1_000), delivered=True)
            acknowledged.add(one)
            done += 1

    await asyncio.gather(*(client(name) for name in range(clients)))
    return acknowledged


def assert_charged_once(books: Money, acknowledged: set[str]) -> None:
    charged = [one for (one,) in books.rows("SELECT generation_id FROM entries WHERE kind = 'charge'")]
    assert len(charged) == len(set(charged))
    assert acknowledged == set(charged)


@pytest.mark.parametrize("how", [("killed", "frozen")[number % 2] for number in range(FAILOVERS)])
async def test_f15_a_standby_is_promoted_under_load_and_has_all_that_was_acknowledged(
    own_server: PostgresServer, tmp_path: Path, how: str
) -> None:
    """Synchronous replication; the ledger is given both servers and finds by itself the one that takes writes.

    Fails if one frozen server of the URL holds up the way to the other, or if `target_session_attrs` is left to its default.
    """
    with server_folder() as folder:
        standby = PostgresServer(folder, {"synchronous_standby_names": ""})
        await asyncio.to_thread(standby.copy_of, own_server)
        await asyncio.to_thread(standby.start)
        try:
            own_server.sql("ALTER SYSTEM SET synchronous_standby_names = 'standby'", database="postgres")
            own_server.sql("SELECT pg_reload_conf()", database="postgres")
            with stores.working_on(own_server) as places:
                database = places.url(tmp_path / "money.db").rpartition("/")[2]
                both = f"postgresql://{USER}@127.0.0.1:{standby.port},127.0.0.1:{own_server.port}/{database}"
                places.move(tmp_path / "money.db", both)
                async with money(tmp_path, RealWorld()) as books:
                    await fail_over(books, own_server, standby, how)
                    places.move(tmp_path / "money.db", standby.url(database))
        finally:
            own_server.stop(signal.SIGKILL)
            (own_server.data / "postgresql.auto.conf").write_text("")
            standby.stop()


async def fail_over(books: Money, primary: PostgresServer, standby: PostgresServer, how: str) -> None:
    await books.ledger.transfer(grant(10**9))
    work = asyncio.create_task(settle_many(books, clients=8, each=15))
    while books.ledger.operations < 60:
        await asyncio.sleep(0.01)
    if how == "killed":
        await asyncio.to_thread(primary.stop, signal.SIGKILL)
    else:
        primary.freeze()
    await asyncio.to_thread(standby.promote)
    acknowledged = await work
    await books.ledger.recover_journals()
    await books.ledger.catch_up()
    primary.stop(signal.SIGKILL)
    charged = stores.rows(
        standby.url(stores.current.url(books.path).rpartition("/")[2]),
        "SELECT id FROM generations WHERE charged_nano = 1000",  # without its hold, which may be lost, as an overrun
    )
    assert sorted(one for (one,) in charged) == sorted(acknowledged)
