"""Where a request's time goes: the whole chain driven in this process, without a front, against a running bench upstream.

python bench/upstream.py 9100 & python bench/profile_request.py 9100 [cumulative]
"""

import asyncio
import cProfile
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from xrouter.app import Gateway
from xrouter.auth.issue import issue
from xrouter.commands.serve import settle_garbage_collection
from xrouter.config.load import load
from xrouter.observe.logs import LogWriter
from xrouter.store.key import NewKey
from xrouter.store.keys import KeyStore
from xrouter.store.migrate import open_store
from xrouter.world import RealWorld

_BODY = (
    b'{"model":"bench/model","messages":[{"role":"system","content":"You are a helpful assistant."},'
    b'{"role":"user","content":"What is the capital of Peru?"}],"temperature":0.5,"max_tokens":100}'
)


async def main(port: int, order: str) -> None:
    folder = Path(tempfile.mkdtemp())
    config = folder / "bench.yaml"
    config.write_text((Path(__file__).parent / "bench.yaml").read_text())
    os.environ |= {"BENCH_STORE": f"sqlite:///{folder}/bench.db", "BENCH_UPSTREAM": f"http://127.0.0.1:{port}/v1"}
    settings = load(config, os.environ)
    engine = await open_store(settings.store)
    key = (await issue(KeyStore(engine, RealWorld()), NewKey(name="bench", account="bench"))).secret.reveal()
    await engine.dispose()
    gateway = Gateway(settings, log_writer=LogWriter(open(os.devnull, "wb")))  # noqa: SIM115
    await gateway.start()
    settle_garbage_collection()
    headers = [(b"host", b"x"), (b"authorization", b"Bearer " + key.encode()), (b"content-type", b"application/json")]

    async def request() -> None:
        asked = False
        gone = asyncio.Event()

        async def receive() -> dict[str, object]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": _BODY, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: object) -> None:
            pass

        scope = {
            "type": "http", "path": "/v1/chat/completions", "method": "POST", "headers": list(headers),
            "client": ("127.0.0.1", 1), "query_string": b"",
        }  # fmt: skip
        await gateway(scope, receive, send)

    async def many(number: int) -> None:
        for _ in range(number):
            await request()

    await many(200)
    began = time.process_time()
    await asyncio.gather(*(many(250) for _ in range(16)))
    print(f"{(time.process_time() - began) / 4000 * 1e6:.0f} µs of CPU a request, without front and profiler")
    profile = cProfile.Profile()
    profile.enable()
    await asyncio.gather(*(many(250) for _ in range(16)))
    profile.disable()
    pstats.Stats(profile).sort_stats(order).print_stats(45)
    await gateway.aclose()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "tottime"))
