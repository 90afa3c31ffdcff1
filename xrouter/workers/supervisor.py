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
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from xrouter.config.load import ConfigError
from xrouter.config.settings import Settings
from xrouter.observe.snapshots import Snapshot, merge, without_gauges
from xrouter.workers import messages
from xrouter.workers.control import LONGEST_LINE, Answer, Door, Question, encoded, question
from xrouter.workers.messages import (
    Abort,
    AskFleet,
    AskReload,
    Commit,
    Fleet,
    Frames,
    Prepare,
    Prepared,
    Pulse,
    Ready,
    Reloaded,
    ToWorker,
    WorkerState,
    frame,
)
from xrouter.workers.processes import use
from xrouter.workers.source import Source, needs_restart
from xrouter.workers.tallies import Tallies
from xrouter.workers.watch import FileWatch

log = logging.getLogger("xrouter.workers")

Told = Callable[[str | None], None]  # how a reload went: the problem, or None
ServeWorker = Callable[[socket.socket, int, Settings], int]

_TICK_S: Final = 1.0
_RELOAD_S: Final = 30.0  # the longest that a worker may take to build a configuration
_SETTLE_S: Final = 15.0  # after the drain, before a worker that has not ended is killed
_YOUNG_S: Final = 5.0  # a worker that dies younger than this makes its successor wait
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 10.0
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


@dataclass(slots=True, eq=False)
class _Worker:
    number: int
    pid: int
    channel: socket.socket
    born: float
    restarts: int
    reloads: int  # how many had been asked for when it was forked: what it was started with
    state: str = "starting"  # then serving, and draining once it has been told to stop
    frames: Frames = field(default_factory=Frames)
    outbox: bytearray = field(default_factory=bytearray)
    pulse: Pulse | None = None
    served: bool = False  # whether it served when it was told to stop
    silent: bool = False  # it has closed its end of the channel
    successor_of: "_Worker | None" = None  # in a rolling restart: who is stopped when this one serves


@dataclass(slots=True)
class _Reload:
    """One under way. `waiting`: the workers that have not said how it went."""

    number: int
    text: bytes
    settings: Settings
    waiting: set[_Worker]
    deadline: float
    told: list[Told]
    problem: str | None = None


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
        self._settings = settings
        self._source = source
        self._serve_worker = serve_worker
        self._announce: Callable[[], None] | None = announce
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._watch = FileWatch(source.path)
        self._door: Door | None = None
        self._gone = Snapshot([])  # what workers that are no more had counted
        self._tallies = Tallies()
        self._reload: _Reload | None = None
        self._reloads_waiting: list[Told] = []
        self._reloads = 0
        self._served_by = 0  # the reload that what is served came with
        self._due: dict[int, float] = {}  # number of a worker that has died → when the next one may start
        self._rolling: list[_Worker] = []  # still to be replaced in a rolling restart
        self._stop_by: float | None = None
        self._failed = False

    def run(self) -> int:
        """Supervise until a signal ends it. 0 if every worker ended well."""
        self._open()
        try:
            for number in range(1, self._settings.server.workers + 1):
                self._spawn(number)
            while self._workers or (self._due and self._stop_by is None):
                for key, _ in self._selector.select(_TICK_S):
                    key.data(key)
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
        try:
            self._door = Door(self._source.path)
        except OSError as error:
            log.warning("xrouter reload and top will not find this gateway: %s", error)
        else:
            self._selector.register(self._door.listener, selectors.EVENT_READ, self._on_command)

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        if self._door is not None:
            self._door.close()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    # Processes

    def _spawn(self, number: int, successor_of: _Worker | None = None) -> None:
        ours, theirs = socket.socketpair()
        signal.pthread_sigmask(
            signal.SIG_BLOCK, _HANDLED
        )  # until the child has no hand on the supervisor's wake-up socket
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._become_worker(theirs, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        theirs.close()
        ours.setblocking(False)
        restarts = self._tallies.restarts.get(number, 0)
        worker = _Worker(number, pid, ours, time.monotonic(), restarts, self._served_by, successor_of=successor_of)
        self._workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, lambda key: self._on_channel(worker))

    def _become_worker(self, channel: socket.socket, number: int) -> NoReturn:
        """In the child: let go of what is the supervisor's, serve, and never come back."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for handled in _HANDLED:
                signal.signal(handled, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that closes tells the whole group
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            for worker in self._workers:
                worker.channel.close()
            if self._door is not None:
                self._door.listener.close()
            self._selector.close()
            self._wake_read.close()
            self._wake_write.close()
            code = self._serve_worker(channel, number, self._settings)
        except SystemExit as ended:  # uvicorn's way to say that the start has failed
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        for worker in list(self._workers):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._buried(worker, os.waitstatus_to_exitcode(status))

    def _buried(self, worker: _Worker, code: int) -> None:
        self._read_channel(worker)  # what it had said before it died
        if not worker.silent:
            self._selector.unregister(worker.channel)
        worker.channel.close()
        self._workers.remove(worker)
        if worker.pulse is not None:
            self._gone = merge([self._gone, without_gauges(worker.pulse.metrics)])
        if self._reload is not None and worker in self._reload.waiting:
            self._reload.waiting.discard(worker)
            self._decide_reload()
        if worker.state == "draining" or self._stop_by is not None:
            told_while_starting = not worker.served and code in (-signal.SIGTERM, -signal.SIGINT)
            self._failed |= code != 0 and self._stop_by is not None and not told_while_starting
            return
        log.error("worker %d (pid %d) has ended with %s", worker.number, worker.pid, _end(code))
        if self._announce is not None and worker.state == "starting":
            self._failed = True  # it has told why; the others would fail the same way
            self._stop()
            return
        if worker.successor_of is not None and worker.state == "starting":
            self._rolling.clear()
            if worker.successor_of in self._workers:
                return  # it goes on serving
        if any(other.successor_of is worker for other in self._workers):
            return  # the one that is starting takes its place
        self._tallies.restarted(worker.number)
        young = time.monotonic() - worker.born < _YOUNG_S
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(worker.restarts, 10), _LONGEST_PAUSE_S) if young else 0.0
        self._due[worker.number] = time.monotonic() + pause_s

    def _stop(self) -> None:
        if self._stop_by is not None:
            return
        server = self._settings.server
        self._stop_by = time.monotonic() + server.drain_delay_s + server.drain_s + _SETTLE_S
        self._listener.close()  # or what comes while the workers drain would wait for nobody
        self._due.clear()
        self._rolling.clear()
        for worker in self._workers:
            self._drain(worker, signal.SIGTERM)

    def _drain(self, worker: _Worker, number: signal.Signals) -> None:
        worker.served, worker.state = worker.state == "serving", "draining"
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, number)

    def _roll(self) -> None:
        """Replace the workers one after the other, each by one that serves before the old one drains."""
        if self._stop_by is None and not self._rolling:
            self._rolling = [worker for worker in self._workers if worker.state == "serving"]
            self._roll_next()

    def _roll_next(self) -> None:
        while self._rolling:
            old = self._rolling.pop(0)
            if old in self._workers and old.state == "serving":
                self._spawn(old.number, successor_of=old)
                return

    # What happens

    def _on_signals(self, key: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._wake_read.recv(4096):
                match number:
                    case signal.SIGTERM | signal.SIGINT:
                        self._stop()
                    case signal.SIGHUP:
                        self._ask_reload(_nobody)
                    case signal.SIGUSR2:
                        self._roll()
        self._reap()

    def _tick(self) -> None:
        now = time.monotonic()
        for number, due in list(self._due.items()):
            if now >= due:
                del self._due[number]
                self._spawn(number)
        if self._reload is not None and now >= self._reload.deadline:
            self._reload.problem = self._reload.problem or f"a worker has not built it within {_RELOAD_S:g} s"
            self._reload.waiting.clear()
            self._decide_reload()
        if self._settings.server.watch_config and self._watch.changed():
            self._ask_reload(_nobody)
        if self._stop_by is not None and now >= self._stop_by:
            for worker in self._workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)

    def _on_channel(self, worker: _Worker) -> None:
        self._flush(worker)
        self._read_channel(worker)

    def _read_channel(self, worker: _Worker) -> None:
        with contextlib.suppress(OSError):
            while data := worker.channel.recv(1 << 16):
                for body in worker.frames.feed(data):
                    self._heard(worker, messages.to_supervisor.decode(body))
            if not worker.silent:
                worker.silent = True
                self._selector.unregister(worker.channel)  # its end would be readable for ever

    def _heard(self, worker: _Worker, message: messages.ToSupervisor) -> None:
        match message:
            case Ready():
                self._ready(worker)
            case Pulse():
                worker.pulse = message
            case Prepared(reload, problem):
                if self._reload is not None and self._reload.number == reload:
                    self._reload.problem = self._reload.problem or problem
                    self._reload.waiting.discard(worker)
                    self._decide_reload()
            case AskReload(number):
                self._ask_reload(lambda problem: self._send(worker, Reloaded(number, problem)))
            case AskFleet(number):
                self._send(worker, Fleet(number, self._states(), self._metrics(without=worker)))

    def _ready(self, worker: _Worker) -> None:
        if worker.state == "starting":
            worker.state = "serving"
        if worker.reloads != self._served_by:
            self._ask_reload(_nobody)  # it was forked while the others took over a newer one
        old = worker.successor_of
        if old is not None:
            worker.successor_of = None
            if old in self._workers:
                self._drain(old, signal.SIGINT)  # at once: its successor answers at the same address
            self._roll_next()
        if self._announce is not None and all(one.state == "serving" for one in self._workers):
            announce, self._announce = self._announce, None
            announce()

    def _send(self, worker: _Worker, message: ToWorker) -> None:
        worker.outbox += frame(message)
        self._flush(worker)

    def _flush(self, worker: _Worker) -> None:
        if worker.silent or worker not in self._workers:
            return
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while worker.outbox:
                del worker.outbox[: worker.channel.send(worker.outbox)]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.outbox else 0)
        self._selector.modify(worker.channel, events, lambda key: self._on_channel(worker))

    # Reloading

    def _ask_reload(self, told: Told) -> None:
        """Read the configuration again. Asked while that is under way, it is read once more afterwards: it may differ."""
        if self._reload is not None:
            self._reloads_waiting.append(told)
            return
        self._begin_reload([told])

    def _begin_reload(self, told: list[Told]) -> None:
        self._watch.noted()
        try:
            text = self._source.read()
            settings = self._source.settings(text)
        except ConfigError as error:
            self._end_reload(told, str(error))
            return
        self._reloads += 1
        waiting = {worker for worker in self._workers if worker.state == "serving"}
        self._reload = _Reload(self._reloads, text, settings, waiting, time.monotonic() + _RELOAD_S, told)
        for worker in waiting:
            self._send(worker, Prepare(self._reloads, text))
        self._decide_reload()

    def _decide_reload(self) -> None:
        reload = self._reload
        if reload is None or reload.waiting:
            return
        self._reload = None
        verdict = Commit(reload.number) if reload.problem is None else Abort(reload.number)
        for worker in self._workers:
            self._send(worker, verdict)
        if reload.problem is None:
            for name in needs_restart(self._settings, reload.settings):
                log.warning("%s has changed: that takes a restart", name)
            self._settings, self._served_by = reload.settings, reload.number  # what the next worker is started with
        self._end_reload(reload.told, reload.problem)

    def _end_reload(self, told: list[Told], problem: str | None) -> None:
        self._tallies.reloaded(problem is None)
        if problem is None:
            log.info("reloaded")
        else:
            log.error("reload refused, the running configuration stays: %s", problem)
        for tell in told:
            tell(problem)
        if self._reloads_waiting:
            waiting, self._reloads_waiting = self._reloads_waiting, []
            self._begin_reload(waiting)

    # Commands of this machine

    def _on_command(self, key: Any) -> None:
        assert self._door is not None
        with contextlib.suppress(OSError):
            connection, _ = self._door.listener.accept()
            connection.setblocking(False)
            heard = bytearray()
            self._selector.register(connection, selectors.EVENT_READ, lambda key: self._on_line(connection, heard))

    def _on_line(self, connection: socket.socket, heard: bytearray) -> None:
        try:
            data = connection.recv(4096)
        except OSError:
            data = b""
        heard += data
        if data and b"\n" not in heard and len(heard) < LONGEST_LINE:
            return
        self._selector.unregister(connection)
        try:
            wanted = question.decode(bytes(heard))
        except ValueError:
            connection.close()
            return
        self._obey(connection, wanted)

    def _obey(self, connection: socket.socket, wanted: Question) -> None:
        def reply(answer: Answer) -> None:
            with contextlib.suppress(OSError), connection:
                connection.sendall(encoded(answer))

        match wanted.ask:
            case "reload":
                self._ask_reload(lambda problem: reply(Answer(problem)))
            case "restart":
                self._roll()
                reply(Answer())
            case "fleet":
                reply(Answer(workers=self._states()))

    def _states(self) -> list[WorkerState]:
        now = time.monotonic()
        states = []
        for worker in self._workers:
            cpu_s, resident_bytes = use(worker.pid)
            pulse = worker.pulse
            states.append(
                WorkerState(
                    number=worker.number,
                    pid=worker.pid,
                    state="draining" if pulse is not None and pulse.draining else worker.state,
                    in_flight=pulse.in_flight if pulse else 0,
                    requests=pulse.requests if pulse else 0,
                    age_s=round(now - worker.born, 3),
                    cpu_s=cpu_s,
                    resident_bytes=resident_bytes,
                    restarts=worker.restarts,
                )
            )
        return sorted(states, key=lambda state: (state.number, -state.age_s))

    def _metrics(self, without: _Worker) -> list[Snapshot]:
        others = [worker.pulse.metrics for worker in self._workers if worker.pulse and worker is not without]
        return [*others, self._gone, self._tallies.snapshot(self._states())]


def _noted(number: int, frame: object) -> None:
    """Signals are read from the wake-up socket; a handler of Python's has to be there for that."""


def _nobody(problem: str | None) -> None:
    """A reload that a signal or a changed file has asked for: the log tells how it went."""


def _end(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
