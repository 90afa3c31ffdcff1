"""Whether an upstream is tried again, and how long to wait before that."""

from dataclasses import dataclass
from typing import Final

from xrouter.world import World

_FIRST_S = 0.5
_LONGEST_S = 20.0
_MOST_SAVED: Final = 3.0  # retries that a quiet time leaves to a bad one


def retry_wait_s(round_: int, retry_after_s: float, world: World) -> float:
    """Exponential with full jitter on its upper half, and never less than an upstream asked for.

    0.5 s, 1 s, 2 s … (GigaChat's own SDK starts there), each shortened by up to a half so that a crowd spreads out.
    """
    backoff: float = min(_FIRST_S * 2**round_, _LONGEST_S)
    return max(backoff * (0.5 + world.random() / 2), retry_after_s)


@dataclass(frozen=True, slots=True)
class RetryBudgetSettings:
    """`ratio`: retries for each request. `min_per_s`: retries a second that are made however few the requests are."""

    ratio: float = 0.2
    min_per_s: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 10:
            raise ValueError("ratio has to be between 0 and 10")
        if not 0 <= self.min_per_s <= 1000:
            raise ValueError("min_per_s has to be between 0 and 1000")


class RetryBudget:
    """What keeps the retries of one upstream from becoming its storm (fault matrix F04). One process's own.

    Each request earns `ratio` of a retry; a retry costs a whole one. Out of `n` requests at a steady rate in `t`
    seconds come at most max(ratio · n, min_per_s · t) + 3 retries and hedges: the floor is a rate and no second source.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._settings = RetryBudgetSettings()
        self._saved = _MOST_SAVED
        self._last = float("-inf")  # monotonic, of the last retry
        self.made = 0
        self.refused = 0

    def configure(self, settings: RetryBudgetSettings) -> None:
        self._settings = settings

    def earn(self) -> None:
        """A request goes to the upstream for the first time."""
        if self._saved < _MOST_SAVED:
            self._saved += self._settings.ratio

    def take(self) -> bool:
        """Whether one more retry may be made; it counts as made."""
        now = self._world.monotonic()
        settings = self._settings
        earned = self._saved >= 1 - 1e-9  # five times 0.2 is one
        if not earned and (now - self._last) * settings.min_per_s < 1:
            self.refused += 1
            return False
        self._saved = max(0.0, self._saved - 1)
        self._last = now
        self.made += 1
        return True
