"""The parent of the workers: it starts them, replaces those that die, and carries what concerns all of them.

It serves no request and runs no event loop and no thread, so forking is safe at any time; what it has imported its workers
share. A worker whose supervisor is gone sees its end of their socket closed, and drains.
"""

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from xrouter.config.settings import Settings
from xrouter.observe.snapshots import Snapshot, merge, without_gauges
from xrouter.workers.backoff import Backoff
from xrouter.workers.control import Answer, Question
from xrouter.workers.messages import (
    AskFleet,
    AskReload,
    Built,
    Fleet,
    Prepared,
    Pulse,
    Ready,
    Reloaded,
    ToSupervisor,
    TurnAway,
    Waiting,
    WorkerState,
)
from xrouter.workers.reloads import Reloads, nobody
from xrouter.workers.source import Source
from xrouter.workers.tallies import Tallies
from xrouter.workers.visitors import Reply, Visitors
from xrouter.workers.worker import Worker

log = logging.getLogger("xrouter.workers")

ServeWorker = Callable[[socket.socket, int, Settings], int]

_TICK_S: Final = 1.0
_SETTLE_S: Final = 15.0  # after the drain, before a worker that has not ended is killed
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


class Supervisor:
    """`serve_worker(channel, number, settings)` is run in each child, and its result is the child's exit code.

    `listener` is what all workers accept from. `announce` is called once they all serve for the first time.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        listener: socket.socket,
        serve_worker: ServeWorker,
        announce: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._source = source
        self._serve_worker = serve_worker
        self._announce: Callable[[], None] | None = announce
        self._many = settings.server.workers
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._visitors = Visitors(self._selector, self._obey)
        self._gone = Snapshot([])  # what workers that are no more had counted
        self._tallies = Tallies()
        self._backoff = Backoff()
        self._reloads = Reloads(settings, source, self._tallies, lambda: self._workers)
        self._due: dict[int, float] = {}  # number of a worker that there is not → when the next one may start
        self._rolling: list[Worker] = []  # still to be replaced in a rolling restart
        self._roll_again: float | None = None  # when to try again, after a successor could not start
        self._stop_by: float | None = None
        self._failed = False

    def run(self) -> int:
        """Supervise until a signal ends it. 0 if every worker ended well."""
        self._open()
        try:
            for number in range(1, self._many + 1):
                self._spawn(number)
            while self._workers or (self._due and self._stop_by is None):
                for key, _ in self._selector.select(_TICK_S):
                    key.data()
                self._tick()
        finally:
            self._close()
        return 1 if self._failed else 0

    def _open(self) -> None:
        gc.collect()
        gc.freeze()  # the collector would write to every page that the workers share
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._on_signals)
        for number in _HANDLED:
            signal.signal(number, _noted)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        self._visitors.open(self._source.path)

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._visitors.close()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    # Processes

    def _spawn(self, number: int, successor_of: Worker | None = None) -> None:
        """Start one. The system may have no room for a process at the moment: then it is tried again later."""
        try:
            self._fork(number, successor_of)
        except OSError as error:
            log.error("worker %d cannot be started, it is tried again: %s", number, error)
            self._start_later(number, 0.0, successor_of)

    def _start_later(self, number: int, lived_s: float, successor_of: Worker | None) -> None:
        """After one that has lived for so long. The worker that is to be replaced goes on until then."""
        at = time.monotonic() + self._backoff.pause_s(number, lived_s)
        if successor_of is None:
            self._due[number] = at
        elif self._stop_by is None:
            self._rolling.insert(0, successor_of)
            self._roll_again = at

    def _fork(self, number: int, successor_of: Worker | None) -> None:
        ours, theirs = socket.socketpair()
        # Blocked until the child has no hand on the supervisor's wake-up socket.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._become_worker(theirs, number)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            theirs.close()
        self._workers.append(
            Worker(
                number,
                pid,
                ours,
                self._selector,
                self._heard,
                config=self._reloads.agreed.number,
                restarts=self._tallies.restarts.get(number, 0),
                successor_of=successor_of,
            )
        )

    def _become_worker(self, channel: socket.socket, number: int) -> NoReturn:
        """In the child: let go of what is the supervisor's, serve, and never come back."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for handled in _HANDLED:
                signal.signal(handled, signal.SIG_DFL)
            # A terminal that closes, or `pkill`, tells the whole group: the supervisor obeys.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            for worker in self._workers:
                worker.channel.close()
            self._visitors.let_go()
            self._selector.close()
            self._wake_read.close()
            self._wake_write.close()
            code = self._serve_worker(channel, number, self._reloads.agreed.settings)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        for worker in list(self._workers):
            code = worker.ended()
            if code is not None:
                self._buried(worker, code)

    def _buried(self, worker: Worker, code: int) -> None:
        worker.close()
        self._workers.remove(worker)
        if worker.pulse is not None:
            self._gone = merge([self._gone, without_gauges(worker.pulse.metrics)])
        self._reloads.gone(worker)
        if worker.state == "draining" or self._stop_by is not None:
            told_while_starting = not worker.served and code in (-signal.SIGTERM, -signal.SIGINT)
            self._failed |= code != 0 and self._stop_by is not None and not told_while_starting
            return
        log.error("worker %d (pid %d) has ended with %s", worker.number, worker.pid, _end(code))
        if self._announce is not None and worker.state == "starting":
            self._failed = True  # it has told why; the others would fail the same way
            self._stop()
            return
        if worker.successor_of in self._workers:
            self._start_later(worker.number, worker.age_s, worker.successor_of)
            return
        if any(other.successor_of is worker for other in self._workers):
            return  # the one that is starting takes its place
        self._tallies.restarted(worker.number)
        self._start_later(worker.number, worker.age_s, None)
        if worker.successor_of is not None:
            self._roll_next()

    def _stop(self) -> None:
        if self._stop_by is not None:
            return
        server = self._reloads.agreed.settings.server
        self._stop_by = time.monotonic() + server.drain_delay_s + server.drain_s + _SETTLE_S
        self._listener.close()  # or what comes while the workers drain would wait for nobody
        self._due.clear()
        self._rolling.clear()
        self._reloads.stop()
        for worker in self._workers:
            worker.drain(signal.SIGTERM)

    def _roll(self) -> None:
        """Replace the workers one after the other, each by one that serves before the old one drains."""
        if self._stop_by is None and not self._rolling and not self._successor_starts():
            self._rolling = [worker for worker in self._workers if worker.state == "serving"]
            self._roll_next()

    def _roll_next(self) -> None:
        self._roll_again = None
        while self._rolling and not self._successor_starts():
            old = self._rolling.pop(0)
            if old in self._workers and old.state == "serving":
                self._spawn(old.number, successor_of=old)
                return

    def _successor_starts(self) -> bool:
        return any(worker.successor_of is not None for worker in self._workers)

    # What happens

    def _on_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._wake_read.recv(4096):
                match number:
                    case signal.SIGTERM | signal.SIGINT:
                        self._stop()
                    case signal.SIGHUP:
                        self._reloads.ask(nobody)
                    case signal.SIGUSR2:
                        self._roll()
        self._reap()

    def _tick(self) -> None:
        now = time.monotonic()
        for number, due in list(self._due.items()):
            if now >= due:
                del self._due[number]
                self._spawn(number)
        if self._roll_again is not None and now >= self._roll_again:
            self._roll_next()
        self._reloads.tick()
        if self._stop_by is not None and now >= self._stop_by:
            for worker in self._workers:
                worker.kill(signal.SIGKILL)

    def _heard(self, worker: Worker, message: ToSupervisor) -> None:
        match message:
            case Waiting():
                if not any(other.state == "serving" for other in self._workers):
                    worker.send(TurnAway())
            case Built():
                self._reloads.join(worker)
            case Ready():
                self._ready(worker)
            case Pulse():
                worker.pulse = message
            case Prepared():
                self._reloads.prepared(worker, message)
            case AskReload(number):
                self._reloads.ask(lambda problem: worker.send(Reloaded(number, problem)))
            case AskFleet(number):
                worker.send(Fleet(number, self._states(), self._metrics(without=worker)))

    def _ready(self, worker: Worker) -> None:
        if worker.state == "starting":
            worker.state = "serving"
        old = worker.successor_of
        if old is not None:
            worker.successor_of = None
            if old in self._workers:
                old.drain(signal.SIGINT)  # at once: its successor answers at the same address
            self._roll_next()
        if self._announce is not None and self._all_serve():
            announce, self._announce = self._announce, None
            announce()

    def _all_serve(self) -> bool:
        return not self._due and all(one.state == "serving" for one in self._workers)

    def _obey(self, wanted: Question, reply: Reply) -> None:
        match wanted.ask:
            case "reload":
                self._reloads.ask(lambda problem: reply(Answer(problem)))
            case "restart":
                self._roll()
                reply(Answer())
            case "fleet":
                reply(Answer(workers=self._states()))

    def _states(self) -> list[WorkerState]:
        states = [worker.described() for worker in self._workers]
        return sorted(states, key=lambda state: (state.number, -state.age_s))

    def _metrics(self, without: Worker) -> list[Snapshot]:
        others = [worker.pulse.metrics for worker in self._workers if worker.pulse and worker is not without]
        return [*others, self._gone, self._tallies.snapshot(self._states())]


def _noted(number: int, frame: object) -> None:
    """Signals are read from the wake-up socket; a handler of Python's has to be there for that."""


def _end(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
