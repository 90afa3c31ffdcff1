"""What an ordinary request on a kept connection must not cost: a timer, a task or a second write. Counted, not timed."""

import asyncio
from typing import Any

import pytest
from kit.hostile import Hostile, answer, answering

from xrouter.config.settings import Timeouts
from xrouter.timers import LazyTimer, _Timers
from xrouter.upstream.base import Limits, UpstreamRequest, read_whole
from xrouter.upstream.connection import Connection
from xrouter.upstream.http1 import Http1Engine
from xrouter.upstream.pool import Pool
from xrouter.upstream.target import Origin


async def test_no_timer_and_no_task_for_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a deadline is armed anew for each request. The server runs in this loop too, so timers are told by owner."""
    armed = 0
    put = _Timers.put

    def counted(timers: _Timers, timer: LazyTimer, turn: int) -> None:
        nonlocal armed
        armed += isinstance(timer._callback.__self__, Connection)  # type: ignore[attr-defined]
        put(timers, timer, turn)

    monkeypatch.setattr(_Timers, "put", counted)
    engine = Http1Engine()
    async with Hostile(answering(answer(b"ok"))) as server:
        request = UpstreamRequest("POST", server.url, (), b"{}")
        await read_whole(await engine.send(request), 100)
        tasks = asyncio.all_tasks()
        for _ in range(100):
            response = await engine.send(request)
            assert asyncio.all_tasks() == tasks
            await read_whole(response, 100)
        assert armed == 1
        await engine.aclose()


async def test_head_and_body_are_one_write() -> None:
    writes: list[Any] = []

    class Wire(asyncio.Transport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            writes.append(bytes(data))

    connection = Connection(Pool(30), asyncio.get_running_loop(), Origin("http", "h", 80), Timeouts(), Limits())
    connection.connection_made(Wire())
    connection.start(b"head", b"body", asyncio.get_running_loop().time() + 1, False)
    assert writes == [b"headbody"]
    connection._timer.disarm()
