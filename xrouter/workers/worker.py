"""A worker as its supervisor holds it: a process, and the supervisor's end of the socket between them."""

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable

from xrouter.workers import messages
from xrouter.workers.messages import Frames, Pulse, ToSupervisor, ToWorker, WorkerState, frame
from xrouter.workers.processes import use


class Worker:
    """`config`: the number of the configuration that it was started with. `heard` is called with each of its messages.

    `restarts`: how many of its number have died before it. `successor_of`: in a rolling restart, who is stopped when this
    one serves.
    """

    def __init__(
        self,
        number: int,
        pid: int,
        channel: socket.socket,
        selector: selectors.BaseSelector,
        heard: "Callable[[Worker, ToSupervisor], None]",
        *,
        config: int,
        restarts: int,
        successor_of: "Worker | None" = None,
    ) -> None:
        self.number = number
        self.pid = pid
        self.channel = channel
        self.config = config
        self.restarts = restarts
        self.successor_of = successor_of
        self.state = "starting"  # then serving, and draining once it has been told to stop
        self.built = False  # from then on it takes part in every reload
        self.served = False  # whether it served when it was told to stop
        self.pulse: Pulse | None = None
        self._born = time.monotonic()
        self._selector = selector
        self._heard = heard
        self._frames = Frames()
        self._outbox = bytearray()
        self._silent = False  # it has closed its end
        channel.setblocking(False)
        selector.register(channel, selectors.EVENT_READ, self._on_channel)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._born

    @property
    def takes_part(self) -> bool:
        """Whether a reload waits for it."""
        return self.built and self.state != "draining" and not self._silent

    def kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def drain(self, number: signal.Signals) -> None:
        self.served, self.state = self.state == "serving", "draining"
        self.kill(number)

    def ended(self) -> int | None:
        """Its exit code (the negative of a signal's number) once it is no more."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def send(self, message: ToWorker) -> None:
        self._outbox += frame(message)
        self._flush()

    def close(self) -> None:
        """Hear what it had said before it ended, and let go of it."""
        self._receive()
        if not self._silent:
            self._silent = True
            self._selector.unregister(self.channel)
        self.channel.close()

    def described(self) -> WorkerState:
        cpu_s, resident_bytes = use(self.pid)
        pulse = self.pulse
        return WorkerState(
            number=self.number,
            pid=self.pid,
            state="draining" if pulse is not None and pulse.draining else self.state,
            in_flight=pulse.in_flight if pulse else 0,
            requests=pulse.requests if pulse else 0,
            age_s=round(self.age_s, 3),
            cpu_s=cpu_s,
            resident_bytes=resident_bytes,
            restarts=self.restarts,
        )

    def _on_channel(self) -> None:
        self._flush()
        self._receive()

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.channel.recv(1 << 16):
                for body in self._frames.feed(data):
                    self._heard(self, messages.to_supervisor.decode(body))
            if not self._silent:
                self._silent = True
                self._selector.unregister(self.channel)  # its end would be readable for ever

    def _flush(self) -> None:
        if self._silent:
            return
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._outbox:
                del self._outbox[: self.channel.send(self._outbox)]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
        self._selector.modify(self.channel, events, self._on_channel)
