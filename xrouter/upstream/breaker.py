"""Leaving an upstream that fails alone for a while: a circuit breaker per upstream and model.

Closed until `failures` in a row, then open for `open_s`, then half open: one request goes through as a probe, and its end
decides. Only failures of the upstream count, never a client's mistakes.
"""

from dataclasses import dataclass

from xrouter.world import World


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    failures: int = 5
    open_s: float = 10.0

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ValueError("failures has to be at least 1")


@dataclass(slots=True)
class _State:
    failures: int = 0
    open_until: float = 0.0
    probing: bool = False


class Breakers:
    """The breakers of one process, made as they are needed; one per upstream and model, both from the configuration."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._states: dict[tuple[str, str], _State] = {}
        self.settings = BreakerSettings()

    def admits(self, upstream: str, model: str) -> bool:
        """Whether a request may be sent there now. Changes nothing."""
        state = self._states.get((upstream, model))
        if state is None or state.failures < self.settings.failures:
            return True
        return not state.probing and self._world.monotonic() >= state.open_until

    def begin(self, upstream: str, model: str) -> None:
        """A request is being sent there; if the breaker is open, it is the probe."""
        state = self._states.get((upstream, model))
        if state is not None and state.failures >= self.settings.failures:
            state.probing = True

    def succeeded(self, upstream: str, model: str) -> None:
        self._states.pop((upstream, model), None)

    def failed(self, upstream: str, model: str) -> None:
        state = self._states.setdefault((upstream, model), _State())
        state.failures += 1
        state.probing = False
        state.open_until = self._world.monotonic() + self.settings.open_s

    def abandoned(self, upstream: str, model: str) -> None:
        """The request ended without telling anything about the upstream: the client left, or erred."""
        state = self._states.get((upstream, model))
        if state is not None:
            state.probing = False

    def open(self) -> list[tuple[str, str]]:
        """Which are open now, for metrics and status."""
        return [place for place in self._states if not self.admits(*place)]
