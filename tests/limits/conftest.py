from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from kit.redis_server import RedisServer, running_redis
from limits_kit import start_well

from xrouter.limits.redis_client import open_client
from xrouter.limits.redis_store import RedisStore


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the tests that do not harm it; each takes keys of its own, or flushes."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server to kill and to freeze."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
async def redis_store(redis: RedisServer) -> AsyncIterator[RedisStore]:
    store = await start_well(RedisStore(open_client(redis.url)))
    yield store
    await store.aclose()


@pytest.fixture
async def patient_store(redis: RedisServer) -> AsyncIterator[RedisStore]:
    """For tests of what a server that is well answers, not of how long it may take: a busy machine needs over 50 ms."""
    store = await start_well(RedisStore(open_client(redis.url), deadline_s=5))
    yield store
    await store.aclose()
