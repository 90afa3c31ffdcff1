"""Another process of the gateway, as far as health is concerned: `health_peer.py REDIS_URL`.

Its place is ("giga", "max"). It does what the lines of its standard input say (`fail`: five failures, `serve`: a call that
goes well) and prints what becomes of the place: `up`, then `ejected` and `well` as they come.
"""

import asyncio
import sys

from xrouter.limits.redis_client import open_client
from xrouter.routing.health import Health
from xrouter.routing.shared import SharedHealth
from xrouter.world import RealWorld

PLACE = ("giga", "max")


async def main(url: str) -> None:
    world = RealWorld()
    health = Health(world)
    health.keep([PLACE])
    sharing = SharedHealth(health, open_client(url), world)
    sharing.start()
    while not sharing.up:
        await asyncio.sleep(0.01)
    print("up", flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    watching = asyncio.create_task(watch(health))
    while line := await lines.readline():
        match line.strip():
            case b"fail":
                for _ in range(5):
                    health.begin(PLACE)
                    health.failed(PLACE, "connect", None)
            case b"serve":
                health.begin(PLACE)
                health.succeeded(PLACE, first_token_s=0.1, duration_s=0.0, output_tokens=1)
    watching.cancel()
    await sharing.aclose()


async def watch(health: Health) -> None:
    ejected = False
    while True:
        if (PLACE in health.open()) != ejected:
            ejected = not ejected
            print("ejected" if ejected else "well", flush=True)
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
