"""What a gateway's process can ask of all the processes that serve with it, be it the only one or one of many."""

from typing import NamedTuple, Protocol

from xrouter.observe.snapshots import Snapshot
from xrouter.workers.messages import WorkerState


class View(NamedTuple):
    """`metrics`: of the others, of those that are gone, and of whoever supervises; not of the process that asks."""

    workers: list[WorkerState]
    metrics: list[Snapshot]


class FleetLink(Protocol):
    async def reload(self) -> str | None:
        """Read the configuration again, for all. Why everything has stayed as it was, or None if it is in force."""

    async def view(self) -> View: ...
