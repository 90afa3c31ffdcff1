"""Reloads of all workers: a two-phase commit, so that either every one serves by the new configuration or none does."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from xrouter.config.load import ConfigError
from xrouter.config.settings import Settings
from xrouter.workers.messages import Abort, Commit, Prepare, Prepared, Serve
from xrouter.workers.source import Source, needs_restart
from xrouter.workers.tallies import Tallies
from xrouter.workers.watch import FileWatch
from xrouter.workers.worker import Worker

log = logging.getLogger("xrouter.workers")

Told = Callable[[str | None], None]  # how a reload went: the problem, or None

_BUILD_S: Final = 30.0  # the longest that a worker may take to build a configuration
_STOPPING: Final = "the gateway is stopping"


@dataclass(frozen=True, slots=True)
class Agreed:
    """The configuration in force. Number 0 is the one that the supervisor was started with; it is sent to nobody."""

    number: int
    settings: Settings
    text: bytes


@dataclass(slots=True)
class _Reload:
    """One under way. `waiting`: those of its workers (`parts`) that have not said how it went."""

    wanted: Agreed
    parts: set[Worker]
    waiting: set[Worker]
    deadline: float
    told: list[Told]
    problem: str | None = None


class Reloads:
    """`workers()`: those that there are."""

    def __init__(
        self, settings: Settings, source: Source, tallies: Tallies, workers: Callable[[], Iterable[Worker]]
    ) -> None:
        self.agreed = Agreed(0, settings, b"")
        self._source = source
        self._tallies = tallies
        self._workers = workers
        self._watch = FileWatch(source.path)
        self._reload: _Reload | None = None
        self._asked_meanwhile: list[Told] = []
        self._last = 0
        self._stopping = False

    def stop(self) -> None:
        """No other configuration takes over any more."""
        self._stopping = True
        self._give_up(_STOPPING)

    def ask(self, told: Told) -> None:
        """Read the configuration again. Asked while that is under way, it is read once more afterwards: it may differ."""
        if self._stopping:
            told(_STOPPING)
        elif self._reload is not None:
            self._asked_meanwhile.append(told)
        else:
            self._begin([told])

    def join(self, worker: Worker) -> None:
        """`worker` is built. Before its first connection it follows to what has been agreed since it was forked."""
        worker.built = True
        if worker.config != self.agreed.number:
            worker.send(Prepare(self.agreed.number, self.agreed.text))
            worker.send(Commit(self.agreed.number))
            worker.config = self.agreed.number
        if self._reload is not None:
            self._reload.parts.add(worker)
            self._reload.waiting.add(worker)
            worker.send(Prepare(self._reload.wanted.number, self._reload.wanted.text))
        worker.send(Serve())

    def prepared(self, worker: Worker, answer: Prepared) -> None:
        reload = self._reload
        if reload is not None and reload.wanted.number == answer.reload:
            reload.problem = reload.problem or answer.problem
            reload.waiting.discard(worker)
            self._decide()

    def gone(self, worker: Worker) -> None:
        if self._reload is not None:
            self._reload.parts.discard(worker)
            self._reload.waiting.discard(worker)
            self._decide()

    def tick(self) -> None:
        if self._reload is not None and time.monotonic() >= self._reload.deadline:
            self._give_up(f"a worker has not built it within {_BUILD_S:g} s")
        if self.agreed.settings.server.watch_config and self._watch.changed():
            self.ask(nobody)

    def _give_up(self, problem: str) -> None:
        if self._reload is not None:
            self._reload.problem = self._reload.problem or problem
            self._reload.waiting.clear()
            self._decide()

    def _begin(self, told: list[Told]) -> None:
        self._watch.noted()
        try:
            text = self._source.read()
            settings = self._source.settings(text)
        except ConfigError as error:
            self._end(told, str(error))
            return
        self._last += 1
        parts = {worker for worker in self._workers() if worker.takes_part}
        deadline = time.monotonic() + _BUILD_S
        self._reload = _Reload(Agreed(self._last, settings, text), parts, set(parts), deadline, told)
        for worker in parts:
            worker.send(Prepare(self._last, text))
        self._decide()

    def _decide(self) -> None:
        reload = self._reload
        if reload is None or reload.waiting:
            return
        self._reload = None
        number = reload.wanted.number
        for worker in reload.parts:
            worker.send(Commit(number) if reload.problem is None else Abort(number))
        if reload.problem is None:
            for worker in reload.parts:
                worker.config = number
            for name in needs_restart(self.agreed.settings, reload.wanted.settings):
                log.warning("%s has changed: that takes a restart", name)
            self.agreed = reload.wanted
        self._end(reload.told, reload.problem)

    def _end(self, told: list[Told], problem: str | None) -> None:
        self._tallies.reloaded(problem is None)
        if problem is None:
            log.info("reloaded")
        else:
            log.error("reload refused, the running configuration stays: %s", problem)
        for tell in told:
            tell(problem)
        if self._asked_meanwhile:
            asked, self._asked_meanwhile = self._asked_meanwhile, []
            if self._stopping:
                self._end(asked, _STOPPING)
            else:
                self._begin(asked)


def nobody(problem: str | None) -> None:
    """A reload that a signal or a changed file has asked for: the log tells how it went."""
