"""How well each place (an upstream's model) does: whether it is left alone, how fast it is, how often it fails.

One per process, living through reloads. Dispatch tells of each attempt's beginning and end, routing reads what to put first.
Only failures of the upstream count, never a client's mistakes. Everything kept is of a fixed size per configured place.
What the processes of one gateway tell each other of their ejections is xrouter.routing.shared.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from xrouter.routing.health_breaker import Breaker, Ejection, Reason
from xrouter.routing.health_settings import HealthSettings
from xrouter.routing.health_window import Counts, Histogram
from xrouter.world import World

log = logging.getLogger(__name__)

Place = tuple[str, str]
"""An upstream's name and the provider's model id: what a Target's `upstream` and `model` are."""

Percentiles = Mapping[str, float]
"""`p50`, `p75`, `p90` and `p99`."""

State = Literal["closed", "open", "half_open"]

_SHARES: Final = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99}
_NEWEST: Final = 0.2  # the weight of the newest call in the moving averages
_READ_EVERY_S: Final = 5.0  # percentiles are read from the histograms at most so often: a request may ask for them
_STALE_S: Final = 600.0  # an average without a call for so long says nothing of now: the place is worth a try again
_NOBODY: Final[frozenset[Place]] = frozenset()


@dataclass(frozen=True, slots=True)
class PlaceReport:
    """What status pages and OpenRouter's endpoint fields say of a place. None: nothing has been seen.

    Uptimes are percent of the calls that told something of the upstream. `latency_s` is to the first token, `throughput` is
    output tokens a second of the whole call; both over the last 30 minutes. `since` and `retry_at` are wall-clock seconds:
    when the place was ejected, and when it is tried again.
    """

    state: State
    since: float | None
    retry_at: float | None
    reason: Reason | None
    last_error: str | None  # the kind of the latest failure, as UpstreamError.kind
    last_error_at: float | None
    uptime_5m: float | None
    uptime_30m: float | None
    uptime_1d: float | None
    latency_s: Percentiles | None
    throughput: Percentiles | None


class _Measured:
    """One quantity of a place's calls over the last half hour. Its percentiles are at most `_READ_EVERY_S` old."""

    __slots__ = ("_histogram", "_read", "_read_at", "add")

    def __init__(self) -> None:
        self._histogram = Histogram(slots=15, slot_s=120)
        self._read: Percentiles | None = None
        self._read_at = 0.0
        self.add = self._histogram.add

    def percentiles(self, now: float) -> Percentiles | None:
        if self._read is None or now - self._read_at >= _READ_EVERY_S:
            values = self._histogram.percentiles(now, _SHARES.values())
            self._read = None if values is None else dict(zip(_SHARES, values, strict=True))
            self._read_at = now
        return self._read


class _Record:
    """One place, as it is now and as it was."""

    __slots__ = (
        "active", "breaker", "ended", "ends", "last_error", "last_error_at", "latencies", "latency_s", "throughput",
        "throughputs",
    )  # fmt: skip

    def __init__(self, settings: HealthSettings) -> None:
        self.active = 0
        self.breaker = Breaker(settings.breaker, settings.outlier)
        self.ends = Counts(slots=24 * 60, slot_s=60)
        self.latencies = _Measured()
        self.throughputs = _Measured()
        self.latency_s: float | None = None
        self.throughput: float | None = None
        self.ended = float("-inf")  # monotonic: when a call last told something
        self.last_error: str | None = None
        self.last_error_at: float | None = None


Change = Callable[[Place, Ejection | None], None]
"""Told when a place's ejection begins, is prolonged (the new one), or ends (None)."""


class Health:
    def __init__(self, world: World) -> None:
        self._world = world
        self._now = world.monotonic
        self._records: dict[Place, _Record] = {}
        self._ejected: dict[Place, _Record] = {}  # those of the records that are not closed: mostly none
        self.settings = HealthSettings()
        self._configured: set[Place] = set()
        self.ejections: dict[tuple[str, str], int] = {}  # begun, by upstream and reason; "peer": found out elsewhere
        self.probes: dict[
            tuple[str, str], int
        ] = {}  # by upstream and result: they outlive the configuration that wants them
        self.shared: bool | None = None  # whether the peers are told; None: nobody is to be
        self.on_change: Change | None = None  # whoever shares ejections; not told of those that a peer brought

    def configure(self, settings: HealthSettings) -> None:
        """From now on. What is known of the places stays."""
        self.settings = settings
        for record in self._records.values():
            record.breaker.configure(settings.breaker, settings.outlier)

    def keep(self, places: Iterable[Place]) -> None:
        """The places that the configuration has. Others are forgotten as soon as no call is under way there."""
        self._configured = set(places)
        for place in [place for place in self._records if place not in self._configured]:
            if not self._records[place].active:
                del self._records[place]
                self._ejected.pop(place, None)

    @property
    def all_well(self) -> bool:
        """Whether no place at all is ejected now."""
        return not self._ejected

    def admits(self, place: Place) -> bool:
        """Whether a request may be sent there now. Changes nothing."""
        record = self._ejected.get(place)
        return record is None or record.breaker.admits(self._now())

    def left_alone(self, places: Sequence[Place]) -> frozenset[Place]:
        """Those of one request's candidates that better ones go before.

        When more than the share `panic` of them is ejected by what was seen here, the fault is likely not theirs, and the
        few that are left would fall under the load of all: then only those are left alone that asked for it themselves.
        """
        if not self._ejected:
            return _NOBODY
        alone = {place for place in places if not self.admits(place)}
        if len(alone) > self.settings.panic * len(set(places)):
            alone = {place for place in alone if self._asked_for_it(place)}
        return frozenset(alone)

    def begin(self, place: Place) -> None:
        record = self._records.get(place)
        if record is None:
            record = self._records[place] = _Record(self.settings)
        record.active += 1
        if place in self._ejected:
            record.breaker.begin(self._now())

    def succeeded(
        self, place: Place, *, first_token_s: float | None, duration_s: float, output_tokens: int | None
    ) -> None:
        """A call that was begun has ended well. Both times are of this attempt alone."""
        now = self._now()
        record = self._records[place]
        record.active -= 1
        record.ends.add(now, True)
        fresh = now - record.ended < _STALE_S
        record.ended = now
        if first_token_s is not None:
            record.latencies.add(now, first_token_s)
            last = record.latency_s
            record.latency_s = first_token_s if last is None or not fresh else last + _NEWEST * (first_token_s - last)
        if output_tokens and duration_s > 0:
            rate = output_tokens / duration_s
            record.throughputs.add(now, rate)
            last = record.throughput
            record.throughput = rate if last is None or not fresh else last + _NEWEST * (rate - last)
        if record.breaker.succeeded(now, duration_s, first_token_s):
            self._changed(place, record)

    def failed(self, place: Place, kind: str, retry_after_s: float | None) -> None:
        """A call that was begun has been failed by the upstream. `kind` as UpstreamError.kind."""
        now = self._now()
        record = self._records[place]
        record.active -= 1
        record.ends.add(now, False)
        record.ended = now
        record.last_error, record.last_error_at = kind, self._world.now()
        if record.breaker.failed(now, kind, retry_after_s):
            self._changed(place, record)

    def abandoned(self, place: Place) -> None:
        """A call that was begun has ended without telling anything about the upstream: the client left, or erred."""
        record = self._records[place]
        record.active -= 1
        record.breaker.abandoned()

    def active(self, place: Place) -> int:
        """Calls under way in this process."""
        record = self._records.get(place)
        return 0 if record is None else record.active

    def latency_s(self, place: Place) -> float | None:
        """Moving average of the time to the first token; None if nothing is known of the last ten minutes."""
        record = self._records.get(place)
        return None if record is None or self._now() - record.ended > _STALE_S else record.latency_s

    def throughput(self, place: Place) -> float | None:
        """Moving average of output tokens a second; None if nothing is known of the last ten minutes."""
        record = self._records.get(place)
        return None if record is None or self._now() - record.ended > _STALE_S else record.throughput

    def quiet_s(self, place: Place) -> float:
        """How long ago a call last told something of the place; infinite if none has."""
        record = self._records.get(place)
        return float("inf") if record is None else self._now() - record.ended

    def ejection(self, place: Place) -> Ejection | None:
        record = self._ejected.get(place)
        return None if record is None else record.breaker.ejection

    def known(self) -> list[Place]:
        """Those that a call has been sent to, or that were ejected."""
        return list(self._records)

    def open(self) -> list[Place]:
        """Those ejected now, half-open ones included."""
        return list(self._ejected)

    def eject(self, place: Place, reason: Reason, kind: str | None, open_s: float) -> None:
        """Leave a place alone on other grounds than calls: an active probe has failed."""
        record = self._records.get(place)
        if record is None:
            record = self._records[place] = _Record(self.settings)
        record.breaker.eject(self._now(), reason, kind, open_s)
        self._changed(place, record)

    def peer_ejected(self, place: Place, reason: Reason, kind: str | None, *, left_s: float, open_s: float) -> None:
        """Another process of this gateway leaves a place alone, for `left_s` from now on."""
        if place not in self._configured:
            return  # its configuration is another one: a reload that has not come here yet
        record = self._records.get(place)
        if record is None:
            record = self._records[place] = _Record(self.settings)
        if record.breaker.peer_ejected(self._now(), reason, kind, left_s, open_s):
            self._changed(place, record, peer=True)

    def restore(self, place: Place, *, peer: bool = False) -> None:
        """End a place's ejection, if there is one. `peer`: on another process's word."""
        record = self._ejected.get(place)
        if record is not None:
            record.breaker.close()
            self._changed(place, record, peer=peer)

    def report(self, place: Place) -> PlaceReport:
        record = self._records.get(place) or _Record(self.settings)
        now, wall = self._now(), self._world.now()
        ejection = record.breaker.ejection
        return PlaceReport(
            state="closed" if ejection is None else "half_open" if now >= ejection.until else "open",
            since=None if ejection is None else wall - (now - ejection.since),
            retry_at=None if ejection is None else wall + (ejection.until - now),
            reason=None if ejection is None else ejection.reason,
            last_error=record.last_error,
            last_error_at=record.last_error_at,
            uptime_5m=_percent(*record.ends.read(now, 300)),
            uptime_30m=_percent(*record.ends.read(now, 1800)),
            uptime_1d=_percent(*record.ends.read(now, 86400)),
            latency_s=record.latencies.percentiles(now),
            throughput=record.throughputs.percentiles(now),
        )

    def _asked_for_it(self, place: Place) -> bool:
        ejection = self.ejection(place)
        return ejection is not None and ejection.reason == "retry_after"

    def _changed(self, place: Place, record: _Record, *, peer: bool = False) -> None:
        """Note an ejection that began, was prolonged or ended."""
        ejection = record.breaker.ejection
        upstream, model = place
        if ejection is None:
            del self._ejected[place]
            log.info("upstream %s, model %s is used again", upstream, model)
        else:
            if place not in self._ejected:
                self._ejected[place] = record
                counted = (upstream, "peer" if peer else ejection.reason)
                self.ejections[counted] = self.ejections.get(counted, 0) + 1
                log.warning(
                    "upstream %s, model %s is left alone for %.1f s: %s, the last failure: %s",
                    upstream, model, ejection.open_s, ejection.reason, ejection.kind,
                )  # fmt: skip
        if self.on_change is not None and not peer:
            self.on_change(place, ejection)


def _percent(good: int, bad: int) -> float | None:
    return round(100 * good / (good + bad), 2) if good + bad else None
