"""Limits counted in this process: exact for one worker, and each worker's share of a limit while Redis is away."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from xrouter.limits.limit import MICRO, Change, Claim, Decision, Limit, Mark, State, ago
from xrouter.limits.store import Counters
from xrouter.limits.windows import Window, new_window
from xrouter.world import World

_MOST_WINDOWS: Final = 500_000  # some 150 MB; more subjects than that in their windows at once are an attack
_LOOKED_AT: Final = 2  # per admission, so that all windows are looked at before as many new ones have come


class MemoryStore:
    """O(1) an admission. An expired window is dropped within as many admissions as there are windows; if there are too
    many, the one that was looked at longest ago goes.

    Nothing here awaits, so nothing can come between the steps of one admission.
    """

    degraded: Final = False

    def __init__(self, world: World, most_windows: int = _MOST_WINDOWS) -> None:
        self.counters = Counters()
        self._world = world
        self._most = most_windows
        self._windows: dict[str, tuple[Limit, Window]] = {}
        self._watched: deque[str] = deque()  # the keys of all windows; the left end is looked at next

    async def start(self) -> None:
        """Nothing to open."""

    async def aclose(self) -> None:
        """Nothing to close."""

    def __len__(self) -> int:
        return len(self._windows)

    async def admit(self, lease: str, claims: Sequence[Claim], otherwise: Sequence[Change] = ()) -> Decision:
        now_us = self._now_us()
        self._evict(now_us)
        looked: list[tuple[Claim, Window, State]] = []
        admitted = True
        for claim in claims:
            limit = claim.limit
            window = self._window(limit, claim.key)
            state = window.state(limit, claim.amount, now_us)
            if not state.fits and not limit.shadow:
                admitted = False
            looked.append((claim, window, state))
        if not admitted:
            self._apply(otherwise, now_us)
            return Decision(False, tuple([state for _, _, state in looked]))
        return Decision(
            True,
            tuple(
                [
                    window.take(claim.limit, claim.amount, now_us, lease) if claim.amount and state.fits else state
                    for claim, window, state in looked
                ]
            ),
        )

    def count(self, lease: str, claims: Sequence[Claim]) -> list[Mark]:
        """Take all claims whether they fit or not; returns where each was taken."""
        now_us = self._now_us()
        self._evict(now_us)
        marks: list[Mark] = []
        for claim in claims:
            window = self._window(claim.limit, claim.key)
            marks.append(window.take(claim.limit, claim.amount, now_us, lease).mark)
        return marks

    def settle(self, changes: Sequence[Change]) -> None:
        self._apply(changes, self._now_us())

    def _apply(self, changes: Sequence[Change], now_us: int) -> None:
        for change in changes:
            known = change.key in self._windows
            if known or change.delta >= 0:
                if not known:
                    self._evict(now_us)
                window = self._window(change.limit, change.key)
                age_us = change.age_us
                if age_us is None:
                    window.change(change.limit, change.mark, change.delta, now_us)
                else:
                    window.used_at(change.limit, change.delta, now_us - age_us, now_us)

    def drain(self) -> list[Change]:
        """All uses that still count, as another store is to be told of them. They are forgotten here."""
        now_us = self._now_us()
        changes = [
            Change(limit, key, ago(now_us - at_us), used)
            for key, (limit, window) in self._windows.items()
            for at_us, used in window.uses(limit, now_us)
        ]
        self._windows.clear()
        self._watched.clear()
        return changes

    def _window(self, limit: Limit, key: str) -> Window:
        found = self._windows.get(key)
        if found is None:
            found = limit, new_window(limit)
            self._windows[key] = found
            self._watched.append(key)
        return found[1]

    def _evict(self, now_us: int) -> None:
        watched, windows = self._watched, self._windows
        for _ in range(min(_LOOKED_AT, len(watched))):
            key = watched[0]
            limit, window = windows[key]
            if window.ends_us(limit) > now_us:
                watched.rotate(-1)
            else:
                del watched[0], windows[key]
        while len(windows) > self._most:
            del windows[watched.popleft()]

    def _now_us(self) -> int:
        return int(self._world.monotonic() * MICRO)
