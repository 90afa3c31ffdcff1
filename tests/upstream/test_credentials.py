"""Several credentials of one upstream: who takes a call, who rests, for how long."""

from collections import Counter
from typing import Any

import pytest
from hand_clock import HandClock

from xrouter.config.settings import UpstreamSettings
from xrouter.errors import UpstreamAuthError, UpstreamError, UpstreamQuotaExhausted, UpstreamTimeout
from xrouter.upstream.caller import Caller
from xrouter.upstream.credentials import Credential, Credentials
from xrouter.upstream.signin import FixedSignIn


class Clock(HandClock):
    def wait(self, seconds: float) -> None:
        self.jump(seconds)


def credentials(number: int, clock: Clock, concurrency: int | None = 2) -> Credentials:
    settings = UpstreamSettings(provider="openai", base_url="http://127.0.0.1:1/v1", concurrency=concurrency)
    callers = [Caller(f"up[{index}]", settings, FixedSignIn(), None, clock) for index in range(number)]
    return Credentials(callers, 600, clock)


def refusal(status: int, **fields: Any) -> UpstreamError:
    return UpstreamError(status=status, upstream_status=status, **fields)


def test_a_conversation_stays_and_all_of_them_spread() -> None:
    chosen = credentials(3, Clock())
    of_each = Counter(chosen.choose("m", f"c{number}").index for number in range(600))
    assert {chosen.choose("m", "one").index for _ in range(20)} == {chosen.choose("m", "one").index}
    assert of_each.keys() == {0, 1, 2}
    assert min(of_each.values()) > 140, "a third of 600, give or take four standard deviations"


def test_rest_moves_no_conversation_of_another_credential() -> None:
    clock = Clock()
    chosen = credentials(3, clock)
    before = {f"c{number}": chosen.choose("m", f"c{number}").index for number in range(100)}
    chosen.blame(chosen.all[1], "m", refusal(403))
    after = {name: chosen.choose("m", name).index for name in before}
    assert all(after[name] == index for name, index in before.items() if index != 1)
    assert {after[name] for name, index in before.items() if index == 1} == {0, 2}, "its own are shared out"
    clock.wait(61)
    assert {name: chosen.choose("m", name).index for name in before} == before


async def test_a_free_place_goes_before_the_conversations_own() -> None:
    chosen = credentials(2, Clock(), concurrency=1)
    own = chosen.choose("m", "c")
    await own.caller.gate.acquire("a")
    other = chosen.choose("m", "c")
    assert other is not own
    await other.caller.gate.acquire("a")
    assert chosen.choose("m", "c") is own, "all are full: it waits where it belongs"


async def test_without_a_conversation_the_least_busy() -> None:
    chosen = credentials(3, Clock())
    for _ in range(6):
        await chosen.choose("m").caller.gate.acquire("a")
    assert [credential.caller.gate.active for credential in chosen.all] == [2, 2, 2]


@pytest.mark.parametrize(
    ("error", "models", "rest_s"),
    [
        (UpstreamQuotaExhausted(upstream_status=402), {"m"}, 600),
        (UpstreamAuthError(upstream_status=401), {"m", "n"}, 60),
        (UpstreamAuthError(), {"m", "n"}, 60),
        (refusal(403), {"m"}, 60),
        (refusal(429, retry_after_s=7), {"m"}, 7),
        (refusal(429), {"m"}, 1),
        (refusal(429, retry_after_s=86400), {"m"}, 60),
    ],
)
def test_what_rests_for_how_long(error: UpstreamError, models: set[str], rest_s: float) -> None:
    clock = Clock()
    chosen = credentials(2, clock)
    first = chosen.all[0]

    def resting() -> set[str]:
        return {model for model in ("m", "n") if first.rest(model, clock.monotonic()) is not None}

    assert chosen.blame(first, "m", error)
    clock.wait(rest_s - 0.01)
    assert resting() == models
    assert first.rests_for_s(clock.monotonic()) == pytest.approx(0.01)
    clock.wait(0.02)
    assert resting() == set()
    assert first.rests_for_s(clock.monotonic()) == 0


def test_the_rest_after_a_refusal_grows_until_it_serves_again() -> None:
    clock = Clock()
    chosen = credentials(2, clock)
    first = chosen.all[0]

    def refused_for() -> float:
        chosen.blame(first, "m", UpstreamAuthError(upstream_status=401))
        rest_s = first.rests_for_s(clock.monotonic())
        clock.wait(rest_s)
        return rest_s

    assert [refused_for() for _ in range(9)] == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    chosen.served(first, "m")
    assert refused_for() == 60


@pytest.mark.parametrize(
    "error",
    [UpstreamTimeout(), refusal(500), refusal(503), UpstreamError(status=429)],
    ids=["time-out", "500", "503", "our own queue"],
)
def test_a_fault_that_is_not_the_credentials(error: UpstreamError) -> None:
    chosen = credentials(2, Clock())
    assert not chosen.blame(chosen.all[0], "m", error)
    assert not chosen.all[0].rests


def test_when_all_rest_the_error_of_the_one_that_wakes_first() -> None:
    clock = Clock()
    chosen = credentials(2, clock)
    assert chosen.blame(chosen.all[0], "m", refusal(429, retry_after_s=30))
    assert not chosen.blame(chosen.all[1], "m", UpstreamQuotaExhausted(upstream_status=402)), "nobody is left"
    clock.wait(10)
    with pytest.raises(UpstreamError) as raised:
        chosen.choose("m", "c")
    assert (raised.value.status, raised.value.retry_after_s) == (429, 20)
    assert chosen.choose("another model", "c")


def test_a_lone_credential_never_rests() -> None:
    chosen = credentials(1, Clock())
    only: Credential = chosen.choose("m", "c")
    assert not chosen.blame(only, "m", UpstreamAuthError(upstream_status=401))
    assert chosen.choose("m", "c") is only
    assert not chosen.several
