"""One process of the race: `race_worker.py URL SCHEME CLIENTS REQUESTS`. Prints how many of its requests were admitted.

It says `ready`, waits for a line on its standard input, and then all of its clients ask at once. The scheme `script` is the
real store; `check-then-write` is what the race test must catch: it looks, and writes if there was room.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import redis.asyncio
from limits_kit import claim, limit, start_well

from xrouter.limits.redis_client import open_client
from xrouter.limits.redis_store import RedisStore

REQUESTS_A_MINUTE, TOKENS_A_MINUTE, TOKENS_EACH = 100, 900, 10


def claims() -> list:
    """Tokens are the scarcer: 90 requests fit, and the other limit must not have counted those that did not."""
    return [
        claim(limit(name="requests", amount=REQUESTS_A_MINUTE, window_s=60)),
        claim(limit(name="tokens", kind="tokens", amount=TOKENS_A_MINUTE, window_s=60), TOKENS_EACH),
        claim(limit(name="slots", kind="concurrency", amount=1000, window_s=0)),
    ]


async def main(url: str, scheme: str, clients: int, requests: int) -> None:
    store = await start_well(RedisStore(open_client(url), deadline_s=30))
    plain = redis.asyncio.Redis.from_url(url)

    async def by_script(name: str) -> bool:
        return (await store.admit(name, claims())).admitted

    async def by_check(name: str) -> bool:
        if int(await plain.get("used") or 0) >= TOKENS_A_MINUTE // TOKENS_EACH:
            return False
        await plain.incr("used")
        return True

    ask: Callable[[str], Awaitable[bool]] = by_script if scheme == "script" else by_check
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

    async def client(number: int) -> int:
        return sum([await ask(f"{sys.argv[5]}-{number}-{turn}") for turn in range(requests)])

    print(sum(await asyncio.gather(*(client(number) for number in range(clients)))), flush=True)
    await store.aclose()
    await plain.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
