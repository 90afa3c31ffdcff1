"""The only process of a gateway: its reloads, and the commands of this machine."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

from xrouter.app import Gateway
from xrouter.config.load import ConfigError
from xrouter.workers.control import LONGEST_LINE, NO_OTHER, Answer, Door, encoded, question
from xrouter.workers.fleet import View
from xrouter.workers.messages import WorkerState
from xrouter.workers.processes import use
from xrouter.workers.source import Source, needs_restart
from xrouter.workers.tallies import Tallies
from xrouter.workers.watch import FileWatch

log = logging.getLogger("xrouter.workers")

_LOOK_S: Final = 1.0


class Alone:
    """`start()` within the gateway's event loop."""

    def __init__(self, gateway: Gateway, source: Source) -> None:
        self._gateway = gateway
        self._source = source
        self._watch = FileWatch(source.path)
        self._tallies = Tallies()
        self._reloading = asyncio.Lock()
        self._born = time.monotonic()
        self._door: Door | None = None
        self._server: asyncio.Server | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._watcher = asyncio.create_task(self._watch_file(), name="configuration watch")
        try:
            self._door = Door(self._source.path)
        except OSError as error:
            log.warning("xrouter reload and top will not find this gateway: %s", error)
            return
        self._server = await asyncio.start_unix_server(self._answer, sock=self._door.listener, limit=LONGEST_LINE)

    async def aclose(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        if self._door is not None:
            self._door.close()

    async def reload(self) -> str | None:
        async with self._reloading:
            self._watch.noted()
            problem = await _problem_of(self._load_and_swap)
        self._tallies.reloaded(problem is None)
        if problem is None:
            log.info("reloaded")
        else:
            log.error("reload refused, the running configuration stays: %s", problem)
        return problem

    async def view(self) -> View:
        states = [self._state()]
        return View(states, [self._tallies.snapshot(states)])

    async def _load_and_swap(self) -> None:
        old, new = self._gateway.settings, await asyncio.to_thread(self._source.load)
        await self._gateway.reload(new)
        for name in needs_restart(old, new):
            log.warning("%s has changed: that takes a restart", name)

    def _state(self) -> WorkerState:
        cpu_s, resident_bytes = use(os.getpid())
        return WorkerState(
            number=1,
            pid=os.getpid(),
            state=self._gateway.state,
            in_flight=self._gateway.in_flight,
            requests=self._gateway.served,
            age_s=round(time.monotonic() - self._born, 3),
            cpu_s=cpu_s,
            resident_bytes=resident_bytes,
            restarts=0,
        )

    async def _watch_file(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._gateway.settings.server.watch_config and self._watch.changed():
                await self.reload()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, asyncio.LimitOverrunError):
            wanted = question.decode(await reader.readline())
            match wanted.ask:
                case "reload":
                    answer = Answer(await self.reload())
                case "restart":
                    answer = Answer(NO_OTHER)
                case "fleet":
                    answer = Answer(workers=[self._state()])
            writer.write(encoded(answer))
            await writer.drain()
        writer.close()


async def _problem_of(work: Callable[[], Awaitable[None]]) -> str | None:
    """What is wrong with a configuration, or with the parts that it makes."""
    try:
        await work()
    except ConfigError as error:
        return str(error)
    except Exception as error:  # a filter of the operator's own may fail in any way; the running chain stays
        log.debug("a configuration could not be built", exc_info=error)
        return f"{type(error).__name__}: {error}"
    return None
