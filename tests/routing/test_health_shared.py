"""Ejections that processes share through a real Redis."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from kit.redis_server import RedisServer, running_redis

from xrouter.limits.redis_client import open_client
from xrouter.routing.health import Health
from xrouter.routing.health_settings import BreakerSettings, HealthSettings
from xrouter.routing.shared import SharedHealth
from xrouter.world import RealWorld

PLACE = ("giga", "max")
PEER = Path(__file__).with_name("health_peer.py")


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        yield server


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


class Member:
    """One process' part, in this process."""

    def __init__(self, url: str, **breaker: float) -> None:
        self.world = RealWorld()
        self.health = Health(self.world)
        self.health.configure(HealthSettings(BreakerSettings(**breaker)))  # type: ignore[arg-type]
        self.health.keep([PLACE])
        self.sharing = SharedHealth(self.health, open_client(url), self.world)

    def fail(self, times: int = 5, *, retry_after_s: float | None = None) -> None:
        for _ in range(times):
            self.health.begin(PLACE)
            self.health.failed(PLACE, "status", retry_after_s)

    def serve(self) -> None:
        self.health.begin(PLACE)
        self.health.succeeded(PLACE, first_token_s=0.1, duration_s=0.0, output_tokens=1)

    def ejected(self) -> bool:
        return PLACE in self.health.open()

    def well(self) -> bool:
        return not self.ejected()


@asynccontextmanager
async def member(server: RedisServer, **breaker: float) -> AsyncIterator[Member]:
    one = Member(server.url, **breaker)
    one.sharing.start()
    try:
        yield one
    finally:
        await one.sharing.aclose()


async def line(process: Process, timeout_s: float = 30.0) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(timeout_s):
        return (await process.stdout.readline()).decode().strip()


async def test_two_processes_know_of_each_others_ejections(redis_server: RedisServer) -> None:
    """Fails without the sharing: the other process goes on sending requests to an upstream that is down."""
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, str(PEER), redis_server.url, stdin=PIPE, stdout=PIPE)
        for _ in range(2)
    ]
    one, other = processes
    assert one.stdin is not None
    assert other.stdin is not None
    assert [await line(process) for process in processes] == ["up", "up"]
    one.stdin.write(b"fail\n")
    assert [await line(process) for process in processes] == ["ejected", "ejected"]
    other.stdin.write(b"serve\n")
    assert [await line(process) for process in processes] == ["well", "well"]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0


async def test_it_is_known_within_a_second(redis_server: RedisServer) -> None:
    """Half a second is the longest between two looks; the bound is for a machine that is busy."""
    async with member(redis_server) as one, member(redis_server) as other:
        await until(lambda: one.sharing.up and other.sharing.up)
        began = asyncio.get_running_loop().time()
        one.fail()
        await until(other.ejected)
        assert asyncio.get_running_loop().time() - began < 10
        ejection = other.health.ejection(PLACE)
        assert ejection is not None
        assert ejection.peer
        assert (ejection.reason, ejection.kind, ejection.open_s) == ("failures", "status", 10)
        assert other.health.ejections == {("giga", "peer"): 1}
        assert 0 < ejection.until - other.world.monotonic() <= 10


async def test_a_probe_anywhere_decides_for_all(redis_server: RedisServer) -> None:
    async with member(redis_server, open_s=0.3) as one, member(redis_server, open_s=0.3) as other:
        one.fail()
        await until(other.ejected)
        await until(lambda: other.health.admits(PLACE))
        other.fail(1)
        ejection = other.health.ejection(PLACE)
        assert ejection is not None
        assert ejection.open_s == 0.6, "the failed probe of a peer's ejection doubles its time"
        await until(lambda: (mine := one.health.ejection(PLACE)) is not None and mine.open_s == 0.6)
        await until(lambda: one.health.admits(PLACE))
        one.serve()
        await until(other.well)


async def test_one_that_comes_later_learns_of_it_and_a_restart_forgets_nothing(redis_server: RedisServer) -> None:
    async with member(redis_server) as one:
        one.fail(1, retry_after_s=60)
        await until(lambda: not one.sharing._changed)
        await until(lambda: one.sharing.up)
    async with member(redis_server) as late:
        await until(late.ejected)
        assert late.health.left_alone([PLACE]) == {PLACE}, "it asked for it, and that is known here too"


async def test_a_peer_shortens_nothing(redis_server: RedisServer) -> None:
    async with member(redis_server) as one, member(redis_server) as other:
        await until(lambda: one.sharing.up and other.sharing.up)
        other.fail(1, retry_after_s=60)
        one.fail(1, retry_after_s=2)
        await until(lambda: (mine := one.health.ejection(PLACE)) is not None and mine.peer)
        ejection = other.health.ejection(PLACE)
        assert ejection is not None
        assert ejection.until - other.world.monotonic() > 10


async def test_a_dead_redis_costs_the_sharing_and_nothing_else(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What changed meanwhile is told when it is back, empty. Fails if a failed exchange forgets what it had to tell."""
    async with member(redis_server) as one, member(redis_server) as other:
        await until(lambda: one.sharing.up and other.sharing.up)
        redis_server.kill()
        await until(lambda: not one.sharing.up and not other.sharing.up)
        one.fail()
        assert one.ejected()
        failures = one.sharing.errors
        await until(lambda: one.sharing.errors >= failures + 2)
        redis_server.start()
        await until(other.ejected)
        assert sum("ejections are not shared" in record.message for record in caplog.records) == 2, "once each"


async def test_a_frozen_redis_holds_nobody_up(redis_server: RedisServer) -> None:
    async with member(redis_server) as one, member(redis_server) as other:
        await until(lambda: one.sharing.up and other.sharing.up)
        redis_server.freeze()
        try:
            one.fail()
            assert one.ejected()
            await until(lambda: not one.sharing.up)
        finally:
            redis_server.thaw()
        await until(other.ejected)


async def test_a_flushed_redis_is_filled_again_by_what_changes(redis_server: RedisServer) -> None:
    """Versions are the server's clock. Fails with a counter in Redis: after the flush it starts below what was seen."""
    async with member(redis_server) as one, member(redis_server) as other:
        for _ in range(3):
            one.fail()
            await until(other.ejected)
            one.serve()
            await until(other.well)
        redis_server.client().flushall()
        one.fail()
        await until(other.ejected)


async def test_one_process_makes_the_probes_and_another_takes_over(redis_server: RedisServer) -> None:
    async with member(redis_server) as one:
        await until(lambda: one.sharing.up)
        assert one.sharing.leads
        async with member(redis_server) as other:
            await until(lambda: other.sharing.up)
            assert not other.sharing.leads
            await one.sharing.aclose()
            await until(lambda: other.sharing.leads)


async def test_a_place_that_is_not_configured_here_is_none_of_our_business(redis_server: RedisServer) -> None:
    async with member(redis_server) as one, member(redis_server) as other:
        other.health.keep([("other", "model")])
        one.fail()
        await until(lambda: bool(other.sharing._seen))
        assert other.health.known() == []
