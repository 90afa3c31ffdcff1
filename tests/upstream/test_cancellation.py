"""A call may be cancelled at any await: no socket stays open, and no later call gets an answer that is not its own."""

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme
from kit.cancel import cancel_at_every_await
from kit.hostile import Hostile, Peer

from xrouter.config.settings import Timeouts, Tls
from xrouter.upstream.base import Engine, UpstreamRequest
from xrouter.upstream.http1 import Http1Engine
from xrouter.upstream.httpx2_engine import Httpx2Engine
from xrouter.upstream.tls import tls_context

TIMEOUTS = Timeouts(connect_s=5, first_byte_s=5, idle_s=5, total_s=10)


async def echo(peer: Peer) -> None:
    """Every answer is its request's body, in two chunks with a pause: a poisoned connection shows at once."""
    while True:
        body = (await peer.request()).partition(b"\r\n\r\n")[2][-64:]
        half = len(body) // 2
        peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await peer.drain()
        for piece in (body[:half], body[half:]):
            await asyncio.sleep(0.001)
            peer.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        await asyncio.sleep(0.001)
        peer.send(b"0\r\n\r\n")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["plain", "tls"])
async def server(
    request: pytest.FixtureRequest, authority: trustme.CA, tmp_path: Path
) -> AsyncIterator[tuple[Hostile, ssl.SSLContext | None]]:
    """The server, and what a client needs to trust it."""
    if request.param == "plain":
        async with Hostile(echo) as plain:
            yield plain, None
        return
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    async with Hostile(echo, context) as secure:
        yield secure, tls_context(Tls(ca_file=str(tmp_path / "ca.pem")))


Ask = Callable[[], Coroutine[Any, Any, None]]


def asking(engine: Engine, url: str, padding: int, finish: bool) -> Ask:
    numbers = itertools.count(1)

    async def ask() -> None:
        mark = b"%064d" % next(numbers)
        response = await engine.send(UpstreamRequest("POST", url, (), b"x" * padding + mark))
        try:
            got = b""
            async for piece in response:
                got += piece
                if finish:
                    response.finish()
                    assert mark.startswith(got)
                    return
            assert got == mark
        finally:
            await response.aclose()

    return ask


@pytest.mark.parametrize("kind", ["http1", "httpx2"])
@pytest.mark.parametrize("late", [False, True], ids=["while waiting", "just after"])
@pytest.mark.parametrize("kept", [False, True], ids=["new connection", "kept connection"])
@pytest.mark.parametrize("shape", ["small", "large", "finished early"])
async def test_cancelled_at_every_await(
    server: tuple[Hostile, ssl.SSLContext | None], kind: str, late: bool, kept: bool, shape: str
) -> None:
    hostile, tls = server
    make = {"http1": Http1Engine, "httpx2": Httpx2Engine}[kind]
    engines: list[Engine] = []
    padding = 2_000_000 if shape == "large" else 0
    probes: list[Ask] = []

    def fresh() -> Ask:
        engines.append(make(timeouts=TIMEOUTS, tls=tls))
        ask = asking(engines[-1], hostile.url, padding, shape == "finished early")
        probes.append(asking(engines[-1], hostile.url, 0, False))
        return ask

    shared = fresh() if kept else None

    async def check() -> None:
        """The engine is as good as new, and closing it leaves nothing."""
        await probes[-1]()
        await probes[-1]()
        if not kept:
            await closed(engines.pop())

    async def closed(engine: Engine) -> None:
        await engine.aclose()
        async with asyncio.timeout(2):
            await hostile.all_closed()

    if shared is not None:
        await shared()
    suspensions = await cancel_at_every_await(lambda: shared() if shared is not None else fresh()(), check, late=late)
    assert suspensions >= 1
    for engine in engines:
        if isinstance(engine, Http1Engine):
            async with asyncio.timeout(2):  # what was cancelled is closed without the engine's end
                while hostile.open > engine.stats().idle or engine.stats().active:
                    await asyncio.sleep(0.001)
        await closed(engine)


async def test_a_swallowed_cancellation_is_noticed() -> None:
    """The tool itself: it fails for a coroutine that goes on after it was cancelled, and counts suspensions right."""

    async def steps() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async def deaf() -> None:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            return

    assert await cancel_at_every_await(steps) == 3
    assert await cancel_at_every_await(steps, late=True) == 3
    with pytest.raises(AssertionError):
        await cancel_at_every_await(deaf)
