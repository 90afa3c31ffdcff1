"""How long a target may be silent before the next one is asked beside it."""

from dataclasses import dataclass
from typing import Final, Literal

from xrouter.context import Target
from xrouter.routing.health import Health
from xrouter.world import World

_LEAST_S: Final = 0.05  # a percentile below this says nothing of a call that will be slow
_LOOKED_UP_EVERY_S: Final = 5.0  # a percentile is read from histograms: too much for every request


@dataclass(frozen=True, slots=True)
class HedgeSettings:
    """One of the two: a fixed time, or the time that so many percent of the target's calls stay below."""

    after_s: float | None = None
    percentile: Literal["p50", "p75", "p90", "p99"] | None = None

    def __post_init__(self) -> None:
        if (self.after_s is None) == (self.percentile is None):
            raise ValueError("a hedge has either after_s or percentile")
        if self.after_s is not None and self.after_s <= 0:
            raise ValueError("after_s has to be above 0")


class HedgeDelay:
    """The delays of one configuration."""

    def __init__(self, settings: HedgeSettings, health: Health, world: World) -> None:
        self._settings = settings
        self._health = health
        self._world = world
        self._known: dict[tuple[str, str], tuple[float, float | None]] = {}  # place → looked up at, delay

    def after_s(self, target: Target) -> float | None:
        """For a call whose first target this is; None while too little is known of it."""
        percentile = self._settings.percentile
        if percentile is None:
            return self._settings.after_s
        now = self._world.monotonic()
        place = (target.upstream, target.model)
        known = self._known.get(place)
        if known is None or now - known[0] >= _LOOKED_UP_EVERY_S:
            latencies = self._health.report(place).latency_s
            known = self._known[place] = (now, None if latencies is None else max(_LEAST_S, latencies[percentile]))
        return known[1]
