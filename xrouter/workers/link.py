"""A worker's end of the socket to its supervisor."""

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable
from typing import Final

from xrouter.app import Gateway
from xrouter.config.load import ConfigError
from xrouter.observe.snapshots import take
from xrouter.running import Prepared
from xrouter.workers import messages
from xrouter.workers.fleet import View
from xrouter.workers.messages import (
    Abort,
    AskFleet,
    AskReload,
    Built,
    Commit,
    Fleet,
    Frames,
    Prepare,
    Pulse,
    Ready,
    Reloaded,
    Serve,
    ToSupervisor,
    TurnAway,
    Waiting,
    frame,
)
from xrouter.workers.source import Source

log = logging.getLogger("xrouter.workers")

_PULSE_S: Final = 0.5
_ANSWER_S: Final = 5.0
_RELOAD_S: Final = 60.0


class SupervisorLink:
    """`start()` within the gateway's event loop. `turn_away` is called while this waits for its store and no worker serves;
    `stop` when the supervisor is gone: nobody would replace this.
    """

    def __init__(
        self,
        channel: socket.socket,
        gateway: Gateway,
        source: Source,
        *,
        turn_away: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._gateway = gateway
        self._source = source
        self._turn_away = turn_away
        self._stop = stop
        self._prepared: tuple[int, Prepared] | None = None
        self._questions = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Reloaded | Fleet]] = {}
        self._may_serve = asyncio.Event()
        self._told: Pulse | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._channel)
        self._tasks = [
            asyncio.create_task(self._listen(reader), name="supervisor: listen"),
            asyncio.create_task(self._beat(), name="supervisor: pulse"),
        ]

    async def aclose(self) -> None:
        self._pulse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()

    def waits(self) -> None:
        self._send(Waiting())

    async def built(self) -> None:
        """The gateway is built: wait until it may accept connections."""
        self._send(Built())
        await self._may_serve.wait()

    def ready(self) -> None:
        self._send(Ready())
        self._pulse()

    async def reload(self) -> str | None:
        number = next(self._questions)
        answer = await self._ask(number, AskReload(number), _RELOAD_S)
        return answer.problem if isinstance(answer, Reloaded) else "the supervisor does not answer"

    async def view(self) -> View:
        number = next(self._questions)
        answer = await self._ask(number, AskFleet(number), _ANSWER_S)
        return View(answer.workers, answer.metrics) if isinstance(answer, Fleet) else View([], [])

    async def _ask(self, number: int, message: ToSupervisor, within_s: float) -> Reloaded | Fleet | None:
        future: asyncio.Future[Reloaded | Fleet] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self._send(message)
        try:
            async with asyncio.timeout(within_s):
                return await future
        except TimeoutError:
            return None
        finally:
            del self._asked[number]

    def _send(self, message: ToSupervisor) -> None:
        assert self._writer is not None
        if not self._writer.is_closing():  # a supervisor that is gone need not be told
            self._writer.write(frame(message))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        frames = Frames()
        while data := await self._read(reader):
            for body in frames.feed(data):
                await self._heard(messages.to_worker.decode(body))
        if not self._gateway.draining:
            log.error("the supervisor is gone: this worker drains and ends")
            self._stop()
        self._may_serve.set()  # or nobody would notice the stop

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(1 << 16)
        except OSError:
            return b""

    async def _heard(self, message: messages.ToWorker) -> None:
        match message:
            case TurnAway():
                self._turn_away()
            case Serve():
                self._may_serve.set()
            case Prepare():
                self._send(messages.Prepared(message.reload, await self._prepare(message)))
            case Commit(reload):
                prepared, self._prepared = self._prepared, None
                if prepared is not None and prepared[0] == reload:
                    await self._gateway.commit(prepared[1])
                else:  # only what the others had built before this worker was
                    log.error("this worker cannot build what the others serve by: it drains and ends")
                    self._stop()
            case Abort(reload):
                if self._prepared is not None and self._prepared[0] == reload:
                    prepared, self._prepared = self._prepared, None
                    await self._gateway.drop(prepared[1])
            case Reloaded(question) | Fleet(question):
                if question in self._asked and not self._asked[question].done():
                    self._asked[question].set_result(message)

    async def _prepare(self, message: Prepare) -> str | None:
        try:
            settings = await asyncio.to_thread(self._source.settings, message.text)
            self._prepared = (message.reload, await self._gateway.prepare(settings))
        except ConfigError as error:
            return str(error)
        except Exception as error:  # a filter of the operator's own may fail in any way; the running chain stays
            return f"{type(error).__name__}: {error}"
        return None

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_PULSE_S)
            self._pulse()

    def _pulse(self) -> None:
        gateway = self._gateway
        pulse = Pulse(gateway.in_flight, gateway.served, gateway.draining, take(gateway.metrics.registry))
        if pulse != self._told:
            self._told = pulse
            self._send(pulse)
