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


@dataclass(slots=True)
class _Account:
    saved: float = _MOST_SAVED
    last: float = float("-inf")  # monotonic, of the last retry
    made: int = 0
    refused: int = 0


class RetryBudget:
    """What keeps the retries of one upstream from becoming its storm (fault matrix F04). One process's own.

    Each request earns `ratio` of a retry; a retry costs a whole one. Out of `n` requests at a steady rate in `t`
    seconds come at most max(ratio · n, min_per_s · t) + 3 retries and hedges: the floor is a rate and no second source.
    """

    def __init__(self, world: World, account: _Account | None = None) -> None:
        self._world = world
        self._settings = RetryBudgetSettings()
        self._account = account or _Account()

    def for_another(self) -> "RetryBudget":
        """The same account under rules of its own: those of another configuration, while requests go on under this one."""
        return RetryBudget(self._world, self._account)

    @property
    def made(self) -> int:
        return self._account.made

    @property
    def refused(self) -> int:
        return self._account.refused

    def configure(self, settings: RetryBudgetSettings) -> None:
        self._settings = settings

    def earn(self) -> None:
        """A request goes to the upstream for the first time."""
        if self._account.saved < _MOST_SAVED:
            self._account.saved += self._settings.ratio

    def take(self) -> bool:
        """Whether one more retry may be made; it counts as made."""
        now = self._world.monotonic()
        account = self._account
        earned = account.saved >= 1 - 1e-9  # five times 0.2 is one
        if not earned and (now - account.last) * self._settings.min_per_s < 1:
            account.refused += 1
            return False
        account.saved = max(0.0, account.saved - 1)
        account.last = now
        account.made += 1
        return True
