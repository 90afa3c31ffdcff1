"""The interface of the stores of limits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from xrouter.limits.limit import Change, Claim, Decision


class StoreDown(Exception):
    """The store cannot count now. Not a refusal: what follows is the filter's `on_store_failure`.

    `sent`: whether the call may have run all the same.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


@dataclass(slots=True)
class Counters:
    """For metrics: all of them only grow. `refused` and `shadow_refused` by the limit's name."""

    admitted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    shadow_refused: Counter[str] = field(default_factory=Counter)
    store_errors: int = 0  # calls that failed or came too late
    lost_changes: int = 0  # corrections given up because the store was away for too long


class LimitStore(Protocol):
    """Where limits are counted. One per process, kept over reloads of the configuration."""

    @property
    def counters(self) -> Counters:
        """What has been counted so far."""

    @property
    def degraded(self) -> bool:
        """Whether the store is away now: the gauge `ratelimit_degraded`."""

    @property
    def returning(self) -> bool:
        """Whether it is away or was a moment ago: other processes may not have told it yet what they admitted meanwhile."""

    async def start(self) -> None: ...

    async def aclose(self) -> None:
        """Send what is waiting to be sent, then close."""

    async def admit(self, lease: str, claims: Sequence[Claim], otherwise: Sequence[Change] = ()) -> Decision:
        """Take all claims, or none and apply `otherwise`, in one step that no other admission can come between.

        A shadow limit's claim is taken if it fits and if all are admitted. `lease` names the request: concurrency is taken
        in its name. If the caller is cancelled, nothing stays taken and `otherwise` is applied. Raises StoreDown within the
        store's deadline; what the call did is then unknown, so the claims count as taken until their windows pass.
        """

    def settle(self, changes: Sequence[Change]) -> None:
        """Apply `changes`, in the order of calls, before any later admission of this process. Never waits, never fails:
        so it is safe in a `finally`, under any cancellation."""
