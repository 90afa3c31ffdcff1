"""Several processes, each with several clients, on one limit: as many are admitted as the limit says, and not one more."""

import os
import subprocess
import sys
from pathlib import Path

from kit.redis_server import RedisServer
from limits_kit import claim, start_well
from race_worker import claims

from xrouter.limits.redis_client import open_client
from xrouter.limits.redis_store import RedisStore

PROCESSES, CLIENTS, REQUESTS = 3, 20, 6
HERE = Path(__file__).parent


def race(url: str, scheme: str) -> int:
    """The number admitted in all. The processes start behind a barrier."""
    command = [sys.executable, str(HERE / "race_worker.py"), url, scheme, str(CLIENTS), str(REQUESTS)]
    path = os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[1])])
    workers = [
        subprocess.Popen(
            [*command, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        for number in range(PROCESSES)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return sum(int(worker.communicate(timeout=60)[0]) for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


async def test_admitted_is_exactly_the_limit(redis: RedisServer) -> None:
    """Fails on check-then-write, as the next test shows, and on limits that are taken one after another."""
    assert race(redis.url, "script") == 90
    store = await start_well(RedisStore(open_client(redis.url), deadline_s=5))
    requests, tokens, slots = claims()
    looks = await store.admit("look", [claim(one.limit, 0) for one in (requests, tokens, slots)])
    assert [state.remaining for state in looks.states] == [10, 0, 910]
    await store.aclose()


def test_the_race_catches_check_then_write(redis: RedisServer) -> None:
    assert race(redis.url, "check-then-write") > 90
