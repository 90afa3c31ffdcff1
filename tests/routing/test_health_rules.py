"""What holds after any sequence of calls, failures and pauses.

Found with it: a Retry-After that is not bounded, a call that ends uncounted, a last place that is left alone.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from kit.health import Watched

from xrouter.routing.health_settings import BreakerSettings, HealthSettings, OutlierSettings

PLACES = [("up", "a"), ("up", "b"), ("other", "a")]
LONGEST_S = 300.0
places = st.sampled_from(PLACES)


class AnyTraffic(RuleBasedStateMachine):
    """Calls overlap as they like; each ends once, in any way."""

    @initialize(failures=st.integers(1, 4), outlier=st.booleans(), slow_s=st.none() | st.just(1.0))
    def begin(self, failures: int, outlier: bool, slow_s: float | None) -> None:
        self.seen = Watched()
        self.calls: list[tuple[tuple[str, str], float]] = []
        breaker = BreakerSettings(failures, open_s=10, max_open_s=LONGEST_S, slow_s=slow_s)
        self.seen.health.configure(HealthSettings(breaker, OutlierSettings(30, 4, 0.5) if outlier else None))

    @rule(place=places)
    def call(self, place: tuple[str, str]) -> None:
        self.calls.append((place, self.seen.world.monotonic()))
        self.seen.health.begin(place)

    @rule(data=st.data(), first_token_s=st.none() | st.floats(0, 3), tokens=st.none() | st.integers(0, 500))
    def succeed(self, data: st.DataObject, first_token_s: float | None, tokens: int | None) -> None:
        if self.calls:
            place, began = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
            duration_s = self.seen.world.monotonic() - began
            self.seen.health.succeeded(place, first_token_s=first_token_s, duration_s=duration_s, output_tokens=tokens)

    @rule(data=st.data(), retry_after_s=st.sampled_from([None, None, 0.0, 20.0, 4000.0]))
    def fail(self, data: st.DataObject, retry_after_s: float | None) -> None:
        if self.calls:
            place, _ = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
            self.seen.health.failed(place, "status", retry_after_s)

    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        if self.calls:
            place, _ = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
            self.seen.health.abandoned(place)

    @rule(seconds=st.sampled_from([0.0, 0.5, 5.0, 10.0, 61.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.seen.world.advance(seconds)

    @rule(place=places, left_s=st.floats(0.1, 100))
    def a_peer_ejects(self, place: tuple[str, str], left_s: float) -> None:
        self.seen.health.keep(PLACES)
        self.seen.health.peer_ejected(place, "failures", "connect", left_s=left_s, open_s=10)

    @invariant()
    def calls_are_counted(self) -> None:
        for place in PLACES:
            assert self.seen.health.active(place) == sum(called == place for called, _ in self.calls)

    @invariant()
    def an_ejection_has_an_end_in_sight(self) -> None:
        """Nothing is left alone for longer than the cap, whatever happened: it is always returned to by itself."""
        now = self.seen.world.monotonic()
        for place in PLACES:
            ejection = self.seen.health.ejection(place)
            assert (ejection is not None) == (place in self.seen.health.open())
            if ejection is not None:
                assert ejection.until - now <= LONGEST_S
                assert ejection.since <= now
            if not self.seen.health.admits(place):
                assert ejection is not None

    @invariant()
    def the_last_one_is_never_left_alone(self) -> None:
        """Unless each of them has asked for it, one candidate is always in front."""
        alone = self.seen.health.left_alone(PLACES)
        for place in alone:
            assert not self.seen.health.admits(place)
        if len(alone) > 1:
            assert all(
                (ejection := self.seen.health.ejection(place)) is not None and ejection.reason == "retry_after"
                for place in alone
            )

    @invariant()
    def reports_are_of_possible_values(self) -> None:
        for place in PLACES:
            report = self.seen.health.report(place)
            assert report.uptime_1d is None or 0 <= report.uptime_1d <= 100
            if report.latency_s is not None:
                assert list(report.latency_s.values()) == sorted(report.latency_s.values())


AnyTraffic.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestAnyTraffic = AnyTraffic.TestCase
