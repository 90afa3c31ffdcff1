"""Engines behind a line that breaks: rows F01, F02, F03, F06 and F07 of the fault matrix, as far as the engine goes."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from kit.fault_proxy import Fault, FaultProxy
from kit.hostile import Hostile, answer, answering, chunked

from xrouter.config.settings import Timeouts
from xrouter.errors import UpstreamError, UpstreamProtocolError, UpstreamTimeout
from xrouter.upstream.base import Engine, UpstreamRequest, read_whole
from xrouter.upstream.http1 import Http1Engine
from xrouter.upstream.httpx2_engine import Httpx2Engine

ENGINES = {"http1": Http1Engine, "httpx2": Httpx2Engine}
STREAM = chunked(*(b"data: %d\n\n" % number for number in range(3)))
BODY = b"".join(b"data: %d\n\n" % number for number in range(3))


@pytest.fixture(params=ENGINES)
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def engine(**limits: float) -> Engine:
        timeouts = Timeouts(**{"connect_s": 2, "first_byte_s": 2, "idle_s": 2, "total_s": 4} | limits)
        made.append(ENGINES[request.param](timeouts=timeouts))
        return made[-1]

    yield engine
    for one in made:
        await one.aclose()


async def body_of(engine: Engine, url: str, **more: Any) -> bytes:
    return (await read_whole(await engine.send(UpstreamRequest("POST", url, (), b"{}", **more)), 1 << 20)).body


@pytest.mark.parametrize("cut", ["close", "reset"])
async def test_f03_cut_at_every_byte(make: Callable[..., Engine], cut: str) -> None:
    """Fails if a chunked body that ends early is taken for a whole one."""
    engine = make()
    async with Hostile(answering(STREAM)) as server, FaultProxy(server.port) as proxy:
        for length in range(len(STREAM)):
            proxy.set(Fault(cut_after=length, cut=cut))
            with pytest.raises(UpstreamProtocolError):
                await body_of(engine, proxy.url)
        proxy.set(Fault())
        assert await body_of(engine, proxy.url) == BODY


@pytest.mark.parametrize("cut", ["stall", "half_close"])
async def test_f06_line_that_goes_quiet(make: Callable[..., Engine], cut: str) -> None:
    engine = make(idle_s=0.1, first_byte_s=0.1)
    async with Hostile(answering(STREAM)) as server, FaultProxy(server.port) as proxy:
        for length in (1, 20, len(STREAM) - 1):
            proxy.set(Fault(cut_after=length, cut=cut))
            with pytest.raises(UpstreamTimeout if cut == "stall" else UpstreamProtocolError):
                await body_of(engine, proxy.url)


async def test_f02_black_hole_that_opens_again(make: Callable[..., Engine]) -> None:
    engine = make(first_byte_s=0.15)
    async with Hostile(answering(STREAM)) as server, FaultProxy(server.port) as proxy:
        assert await body_of(engine, proxy.url) == BODY
        proxy.set(Fault(black_hole=True))
        with pytest.raises(UpstreamTimeout):
            await body_of(engine, proxy.url)
        proxy.set(Fault())
        assert await body_of(engine, proxy.url) == BODY


async def test_f06_drip(make: Callable[..., Engine]) -> None:
    async with Hostile(answering(STREAM)) as server, FaultProxy(server.port, Fault(drip_bytes=1)) as proxy:
        assert await body_of(make(), proxy.url) == BODY


async def test_f06_slow_line_within_its_limits(make: Callable[..., Engine]) -> None:
    """Each pause is shorter than `idle_s`, all together are longer: nothing is cut."""
    data = STREAM[:48]
    async with (
        Hostile(answering(answer(data))) as server,
        FaultProxy(server.port, Fault(drip_bytes=12, latency_s=0.05)) as proxy,
    ):
        assert await body_of(make(idle_s=0.3, first_byte_s=1.0), proxy.url) == data


async def test_f07_every_bit_flip(make: Callable[..., Engine]) -> None:
    """A byte changed on the way gives another answer or an UpstreamError; never a hang or another exception."""
    data = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-y: z\r\n\r\nhello"
    engine = make(first_byte_s=0.1, idle_s=0.1)
    async with Hostile(answering(data)) as server, FaultProxy(server.port) as proxy:
        for place in range(len(data)):
            proxy.set(Fault(flip_at=place, cut_after=len(data)))
            try:
                await body_of(engine, proxy.url)
            except UpstreamError:
                continue
