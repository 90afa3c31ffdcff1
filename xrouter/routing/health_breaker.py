"""The circuit breaker of one place: closed, ejected for a time, then half open until one request has shown how it is.

    closed ── failures in a row, error rate, slow, Retry-After ──► ejected until `until`
    ejected ── `until` has come: half open, one probe at a time ── it fails ──► ejected, twice as long
    half open ── a request begun since the ejection succeeds ──► closed

A probe is an ordinary request, and may stream for minutes: one that has not ended within the time of an ejection no longer
keeps the next from trying. Nothing here reads a clock: times are monotonic seconds, given.
"""

from dataclasses import dataclass
from typing import Final, Literal

from xrouter.routing.health_settings import BreakerSettings, OutlierSettings
from xrouter.routing.health_window import Counts

Reason = Literal["failures", "error_rate", "slow", "retry_after", "probe"]
"""Why a place was ejected. `retry_after`: the upstream said for how long. `probe`: an active probe failed."""

SHORTEST_RETRY_AFTER_S: Final = 1.0  # fault matrix F04
LONGEST_RETRY_AFTER_S: Final = 60.0
_WINDOW_SLOTS: Final = 10


@dataclass(frozen=True, slots=True)
class Ejection:
    """`kind` of the failure that brought it, as UpstreamError.kind. `since` and `until` are monotonic seconds.

    `peer`: another process of this gateway has found it out.
    """

    reason: Reason
    kind: str | None
    since: float
    until: float
    open_s: float  # its length, which the next one doubles
    peer: bool = False


class Breaker:
    """`failed` and `succeeded` return whether the place's ejection changed: it began, was prolonged, or ended."""

    __slots__ = ("_in_a_row", "_outlier", "_probe_until", "_settings", "_window", "ejection")

    def __init__(self, settings: BreakerSettings, outlier: OutlierSettings | None) -> None:
        self.ejection: Ejection | None = None
        self._in_a_row = 0
        self._probe_until = 0.0
        self._outlier: OutlierSettings | None = None
        self._window: Counts | None = None
        self.configure(settings, outlier)

    def configure(self, settings: BreakerSettings, outlier: OutlierSettings | None) -> None:
        """What is counted stays, except for a window of another length."""
        self._settings = settings
        if outlier is None:
            self._window = None
        elif self._outlier is None or self._outlier.window_s != outlier.window_s:
            self._window = Counts(_WINDOW_SLOTS, outlier.window_s / _WINDOW_SLOTS)
        self._outlier = outlier

    def admits(self, now: float) -> bool:
        ejection = self.ejection
        return ejection is None or (now >= ejection.until and now >= self._probe_until)

    def begin(self, now: float) -> None:
        """A request is sent to this place though it is ejected: if its time is over, this is the probe."""
        if self.ejection is not None and self.admits(now):
            self._probe_until = now + self.ejection.open_s

    def succeeded(self, now: float, duration_s: float, first_token_s: float | None) -> bool:
        slow_s = self._settings.slow_s
        if slow_s is not None and first_token_s is not None and first_token_s > slow_s:
            return self._count(now, "slow", None)
        self._in_a_row = 0
        if self._window is not None:
            self._window.add(now, True)
        ejection = self.ejection
        if ejection is None:
            return False
        if now - duration_s < ejection.since:
            return False  # it was under way before the trouble began and says nothing of it
        self.close()
        return True

    def failed(self, now: float, kind: str, retry_after_s: float | None) -> bool:
        if retry_after_s is not None:
            open_s = min(max(retry_after_s, SHORTEST_RETRY_AFTER_S), LONGEST_RETRY_AFTER_S)
            return self._wait(now, kind, open_s)
        return self._count(now, "failures", kind)

    def abandoned(self) -> None:
        self._probe_until = 0.0

    def eject(self, now: float, reason: Reason, kind: str | None, open_s: float) -> None:
        """Begin an ejection, or replace the one there is by one that `reason` brought."""
        since = self.ejection.since if self.ejection is not None else now
        self.ejection = Ejection(reason, kind, since, now + open_s, open_s)
        self._probe_until = 0.0

    def peer_ejected(self, now: float, reason: Reason, kind: str | None, left_s: float, open_s: float) -> bool:
        """Another process leaves the place alone. Whether that is for longer than it is left alone here."""
        ejection = self.ejection
        if ejection is not None and now + left_s <= ejection.until:
            return False
        since = ejection.since if ejection is not None else now
        self.ejection = Ejection(reason, kind, since, now + left_s, open_s, peer=True)
        self._probe_until = 0.0
        return True

    def close(self) -> None:
        """The place is well: what led to its ejection is forgotten."""
        self.ejection = None
        self._in_a_row = 0
        self._probe_until = 0.0
        if self._window is not None:
            self._window.clear()

    def _wait(self, now: float, kind: str, open_s: float) -> bool:
        """The upstream itself has said for how long it is to be left: that counts, whatever else is known."""
        ejection = self.ejection
        if ejection is not None and now + open_s <= ejection.until:
            return False
        self.eject(now, "retry_after", kind, open_s)
        return True

    def _count(self, now: float, reason: Literal["failures", "slow"], kind: str | None) -> bool:
        self._in_a_row += 1
        if self._window is not None:
            self._window.add(now, False)
        ejection = self.ejection
        if ejection is not None:
            if now < ejection.until:
                return False  # under way when it was ejected, or sent for want of a better place
            self.eject(now, reason, kind, self._longer(ejection))
            return True
        if self._in_a_row >= self._settings.failures:
            self.eject(now, reason, kind, self._settings.open_s)
            return True
        if self._is_outlier(now):
            self.eject(now, "error_rate", kind, self._settings.open_s)
            return True
        return False

    def _longer(self, last: Ejection) -> float:
        """How long the next ejection is. One whose length somebody else chose is nothing to double."""
        open_s = self._settings.open_s
        if last.reason in ("retry_after", "probe"):
            return open_s
        return min(last.open_s * 2, max(open_s, self._settings.max_open_s))

    def _is_outlier(self, now: float) -> bool:
        outlier, window = self._outlier, self._window
        if outlier is None or window is None:
            return False
        good, bad = window.read(now, outlier.window_s)
        return good + bad >= outlier.min_requests and bad >= outlier.error_rate * (good + bad)
