"""What the supervisor itself has to tell in the metrics."""

from collections.abc import Iterable

from xrouter.observe.snapshots import Family, Sample, Snapshot
from xrouter.workers.messages import WorkerState


class Tallies:
    """Counts since the supervisor started."""

    def __init__(self) -> None:
        self.applied = 0
        self.rejected = 0
        self.restarts: dict[int, int] = {}  # of each worker's number

    def reloaded(self, applied: bool) -> None:
        if applied:
            self.applied += 1
        else:
            self.rejected += 1

    def restarted(self, number: int) -> None:
        """Worker `number` has died and is replaced."""
        self.restarts[number] = self.restarts.get(number, 0) + 1

    def snapshot(self, workers: Iterable[WorkerState]) -> Snapshot:
        reloads = [
            Sample("xrouter_reload_total", {"result": "applied"}, self.applied),
            Sample("xrouter_reload_total", {"result": "rejected"}, self.rejected),
        ]
        restarts = [
            Sample("xrouter_worker_restarts_total", {"worker": str(number)}, count)
            for number, count in self.restarts.items()
        ]
        memory = [
            Sample(
                "xrouter_worker_resident_bytes",
                {"worker": str(state.number), "pid": str(state.pid)},
                state.resident_bytes,
            )
            for state in workers
        ]
        return Snapshot(
            [
                Family("xrouter_reload", "Configurations read again", "counter", reloads),
                Family("xrouter_worker_restarts", "Workers replaced after they had died", "counter", restarts),
                Family("xrouter_worker_resident_bytes", "Memory of each worker", "gauge", memory),
            ]
        )
