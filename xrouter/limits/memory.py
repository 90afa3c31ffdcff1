"""Limits counted in this process: exact for one worker, and each worker's share of a limit while Redis is away."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from xrouter.limits.limit import MICRO, Change, Claim, Decision, Mark, State, ago
from xrouter.limits.store import Counters
from xrouter.limits.windows import Window, new_window
from xrouter.world import World

_MOST_WINDOWS: Final = 500_000  # some 150 MB; more subjects than that in their windows at once are an attack
_LOOKED_AT: Final = 16  # at a time, once so many are due: one for each admission and one for each new window


class MemoryStore:
    """O(1) an admission. An expired window is dropped within as many admissions as there are windows, or before so many new
    ones have come; if there are too many, the one that was looked at longest ago goes.

    Nothing here awaits, so nothing can come between the steps of one admission.
    """

    degraded: Final = False
    returning: Final = False

    def __init__(self, world: World, most_windows: int = _MOST_WINDOWS) -> None:
        self.counters = Counters()
        self._monotonic = world.monotonic
        self._most = most_windows
        self._windows: dict[str, Window] = {}
        self._watched: deque[str] = deque()  # the keys of all windows; the left end is looked at next
        self.dropped = 0  # states that went although they counted
        self._due = 0  # how many are to be looked at

    async def start(self) -> None:
        """Nothing to open."""

    async def aclose(self) -> None:
        """Nothing to close."""

    def __len__(self) -> int:
        return len(self._windows)

    async def admit(self, lease: str, claims: Sequence[Claim], otherwise: Sequence[Change] = ()) -> Decision:
        return self.decide(lease, claims, otherwise)

    def decide(self, lease: str, claims: Sequence[Claim], otherwise: Sequence[Change] = ()) -> Decision:
        """An admission, which needs no coroutine here."""
        now_us = self._now_us()
        self._look_at_some(now_us)
        looked: list[tuple[Window, Claim, State | None]] = []
        for claim in claims:
            window = self._windows.get(claim.key) or self._window(claim)
            state = None
            if not claim.amount or not window.fits(claim.limit, claim.amount, now_us):
                state = window.state(claim.limit, claim.amount, now_us)
                if not state.fits and not claim.limit.shadow:
                    return self._refused(claims, otherwise, now_us)
            looked.append((window, claim, state))
        return Decision(
            True, [state or window.take(claim.limit, claim.amount, now_us, lease) for window, claim, state in looked]
        )

    def _refused(self, claims: Sequence[Claim], otherwise: Sequence[Change], now_us: int) -> Decision:
        states = [self._window(claim).state(claim.limit, claim.amount, now_us) for claim in claims]
        self._apply(otherwise, now_us)
        return Decision(False, states)

    def count(self, lease: str, claims: Sequence[Claim]) -> list[Mark]:
        """Take all claims whether they fit or not; returns where each was taken."""
        now_us = self._now_us()
        self._look_at_some(now_us)
        return [self._window(claim).take(claim.limit, claim.amount, now_us, lease).mark for claim in claims]

    def settle(self, changes: Sequence[Change]) -> None:
        self._apply(changes, self._now_us())

    def _apply(self, changes: Sequence[Change], now_us: int) -> None:
        for change in changes:
            window = self._windows.get(change.key)
            if window is None:
                if change.delta < 0:
                    continue
                self._look_at_some(now_us)
                window = self._window(change)
            age_us = change.age_us
            if age_us is None:
                window.change(change.limit, change.mark, change.delta, now_us)
            else:
                window.used_at(change.limit, change.delta, now_us - age_us, now_us)

    def drain(self) -> list[Change]:
        """All uses that still count, as another store is to be told of them. They are forgotten here."""
        now_us = self._now_us()
        changes = [
            Change(window.limit, key, ago(now_us - at_us), used)
            for key, window in self._windows.items()
            for at_us, used in window.uses(now_us)
        ]
        self._windows.clear()
        self._watched.clear()
        return changes

    def _window(self, of: Claim | Change) -> Window:
        window = self._windows.get(of.key)
        if window is None:
            window = self._windows[of.key] = new_window(of.limit)
            self._watched.append(of.key)
            self._due += 1
        return window

    def _look_at_some(self, now_us: int) -> None:
        """Before an admission, and before a change makes a window."""
        self._due = due = self._due + 1
        watched, windows = self._watched, self._windows
        if due < _LOOKED_AT and len(windows) <= self._most:
            return
        for _ in range(min(due, len(watched))):
            key = watched[0]
            if windows[key].ends_us() > now_us:
                watched.rotate(-1)
            else:
                del watched[0], windows[key]
        self._due = 0
        while len(windows) > self._most:
            del windows[watched.popleft()]
            self.dropped += 1

    def _now_us(self) -> int:
        return int(self._monotonic() * MICRO)
