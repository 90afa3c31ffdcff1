"""What the protocol model remembers: the store, the processes, their requests and journals, and the faults still to come."""

from typing import Any, Final, Literal, NamedTuple

from model.books import Op, Store, replaced

Stage = Literal[
    "new", "opening", "running", "extending", "settling", "failing", "settled", "finished", "ended", "gone",
]  # fmt: skip
OVER: Final = ("finished", "ended", "gone")
Page = tuple[tuple[int, int], ...]  # settlements of a journal: generation and cost


class Faults(NamedTuple):
    """How often each may still happen. `fail`: a commit fails; `lost`: it succeeds and the answer is lost."""

    crash: int = 0
    pause: int = 0
    outage: int = 0
    fail: int = 0
    lost: int = 0
    jump: int = 0
    disk: int = 0
    grant: int = 0
    refund: int = 0


class Sweep(NamedTuple):
    """Where a sweep is. `file` is being read, so locked; `page` is what was in it, `at` the settlement that is asked for."""

    stage: Literal["idle", "renew", "recover", "page", "away", "catch up", "expire"]
    file: int = -1
    page: Page = ()
    at: int = 0


class Process(NamedTuple):
    """`pending`: asked of the ledger and not committed. `kept`: it renewed its lease since it was last held up."""

    mode: Literal["up", "starting", "paused", "dead"]
    incarnation: int = 0
    pending: tuple[Op, ...] = ()
    put_off: tuple[Op, ...] = ()
    sweep: Sweep = Sweep("idle")
    quiet: bool = False
    kept: bool = False


class Request(NamedTuple):
    """`cost`: what it was settled for, once that is `due`. `attended`: its client is there."""

    stage: Stage
    cost: int = 0
    due: bool = False
    attended: bool = True
    extended: bool = False


class State(NamedTuple):
    store: Store
    up: bool
    processes: tuple[Process, ...]
    requests: tuple[Request, ...]
    journals: tuple[Page, ...]  # of each holder
    left: Faults
    granted: bool = False  # and told so
    broken: str = ""  # what a step did that no state shows

    def at(self, g: int, **changes: Any) -> "State":
        return self._replace(requests=replaced(self.requests, g, self.requests[g]._replace(**changes)))

    def with_process(self, p: int, process: Process) -> "State":
        return self._replace(processes=replaced(self.processes, p, process))
