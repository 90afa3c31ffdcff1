"""The start queue by itself, with a loop and a clock that the test turns: order, fairness, what is shed."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter.front.exchange import Exchange
from xrouter.front.start_queue import STARTS_A_TURN, Reason, StartQueue

TURN_S = STARTS_A_TURN / 1000  # so that a start takes a millisecond
TURNS = 50  # until the queue knows its pace


class Asked:
    """One request, as much of it as the queue looks at."""

    def __init__(self, key: str, path: str = "/v1/chat/completions") -> None:
        self.key = key
        self.path = path
        self.dropped = False

    def sender(self) -> str:
        return self.key


class Bench:
    """A queue, and what became of the requests that were brought to it."""

    def __init__(self, longest_s: float = 1.0) -> None:
        self.now = 0.0
        self.queue = StartQueue(longest_s, lambda: self.now)
        self.soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.started: list[Asked] = []
        self.shed_for: list[tuple[Asked, Reason]] = []
        self.unheard = 0  # clients
        self.heard = 0  # again
        self.before = 0  # started, when this turn began

    # What a loop does.

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        self.soon.append((callback, args))

    @property
    def started_now(self) -> int:
        """In this turn."""
        return len(self.started) - self.before

    def turn(self, took_s: float = TURN_S) -> None:
        self.now += took_s
        self.before = len(self.started)
        due, self.soon = self.soon, []
        for callback, args in due:
            callback(*args)

    # What a connection does.

    def start(self, exchange: Exchange) -> None:
        self.started.append(cast(Asked, exchange))

    def shed(self, exchange: Exchange, reason: Reason) -> None:
        self.shed_for.append((cast(Asked, exchange), reason))

    def stop_hearing(self) -> None:
        self.unheard += 1

    def hear_again(self) -> None:
        self.unheard -= 1
        self.heard += 1

    def ask(self, key: str, number: int = 1, **more: str) -> list[Asked]:
        asked = [Asked(key, **more) for _ in range(number)]
        for one in asked:
            self.queue.arrive(self, cast(Exchange, one), cast(asyncio.AbstractEventLoop, self))
        return asked

    def settle(self, turns: int = 10_000) -> None:
        while self.soon:
            turns -= 1
            assert turns, "the queue never rests"
            self.turn()


def overloaded(longest_s: float = 1.0) -> Bench:
    """One key has asked more than is begun for long enough to know the pace, and goes on doing so."""
    bench = Bench(longest_s)
    for _ in range(TURNS):
        bench.ask("noisy", 3 * STARTS_A_TURN)
        bench.turn()
    return bench


def test_few_requests_begin_at_once() -> None:
    bench = Bench()
    for _ in range(3):
        asked = bench.ask("a", STARTS_A_TURN)
        assert bench.started[-STARTS_A_TURN:] == asked
        bench.turn()
    assert not bench.queue.waiting
    assert not bench.soon


def test_many_begin_in_later_turns_in_their_order() -> None:
    bench = Bench()
    asked = bench.ask("a", 3 * STARTS_A_TURN + 1)
    for turns in range(1, 4):
        assert bench.started == asked[: turns * STARTS_A_TURN]
        bench.turn()
    assert bench.started == asked
    bench.settle()
    assert bench.queue.waiting == 0


def test_who_comes_later_does_not_pass() -> None:
    bench = Bench()
    first = bench.ask("a", 2 * STARTS_A_TURN + 5)
    bench.turn()
    later = bench.ask("a", 1)  # two begun this turn would leave room for it
    bench.settle()
    assert bench.started == first + later


def test_it_is_known_beforehand_who_would_be_shed() -> None:
    """What `too_long_for` tells of a request that has not been read is what becomes of it once it has."""
    bench = overloaded()
    told = 0
    for key in ["noisy"] * 40 + ["quiet"] + ["noisy"] * 20 + ["quiet"]:
        would = bench.queue.too_long_for(key)
        assert not would or bench.queue.too_long
        shed = len(bench.shed_for)
        bench.ask(key)
        assert (len(bench.shed_for) > shed) == would
        told += would
        assert key == "noisy" or not would
    assert told
    bench.settle()
    assert not bench.queue.too_long


def test_a_quiet_key_passes_a_noisy_one() -> None:
    bench = overloaded()
    assert bench.queue.waiting > 10 * STARTS_A_TURN
    before = len(bench.started)
    (quiet,) = bench.ask("quiet")
    bench.turn()
    assert bench.started.index(quiet) < before + STARTS_A_TURN
    assert quiet not in [asked for asked, _ in bench.shed_for]


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=300))
def test_keys_take_turns(keys: list[str]) -> None:
    """While several keys have requests waiting, none is begun twice more than another."""
    bench = Bench(longest_s=1000)
    bench.ask("first", STARTS_A_TURN)  # the rest waits
    asked = [bench.ask(key)[0] for key in keys]
    bench.settle()
    begun = bench.started[STARTS_A_TURN:]
    assert sorted(map(id, begun)) == sorted(map(id, asked))
    assert not bench.shed_for
    for key in set(keys):
        assert [one for one in begun if one.key == key] == [one for one in asked if one.key == key]
        for other in set(keys) - {key}:
            places = [place for place, one in enumerate(begun) if one.key == key]
            for here, there in pairwise(places):
                assert sum(one.key == other for one in begun[here:there]) <= 1


def test_what_would_wait_too_long_is_shed() -> None:
    """And what is begun has waited for about half of the longest wait, which is what the pace foretold."""
    bench = Bench(longest_s=1.0)
    came: dict[int, float] = {}
    waited: list[float] = []
    for _ in range(4 * TURNS):
        for one in bench.ask("a", 3 * STARTS_A_TURN):
            came[id(one)] = bench.now
        seen = len(bench.started)
        bench.turn()
        waited += [bench.now - came[id(one)] for one in bench.started[seen:]]
    assert {reason for _, reason in bench.shed_for} == {"wait"}
    assert 0.4 < max(waited[len(waited) // 2 :]) < 0.6
    assert bench.queue.waiting < 0.6 / 0.001
    share = len(bench.started) / (len(bench.started) + len(bench.shed_for) + bench.queue.waiting)
    assert 0.3 < share < 0.4


def test_what_has_waited_too_long_is_shed() -> None:
    bench = overloaded()
    waiting = bench.queue.waiting
    shed, begun = len(bench.shed_for), len(bench.started)
    bench.turn(took_s=1.1)  # the loop stood still
    assert [reason for _, reason in bench.shed_for[shed:]] == ["expired"] * waiting
    assert len(bench.started) == begun
    assert bench.queue.waiting == 0
    asked = bench.ask("noisy", STARTS_A_TURN)  # and what came of it is over
    assert bench.started[-STARTS_A_TURN:] == asked


def test_the_pace_of_another_time_sheds_nothing() -> None:
    bench = Bench(longest_s=1.0)
    bench.ask("a", 4 * STARTS_A_TURN)
    while bench.soon:
        bench.turn(took_s=0.4)  # as good as standing still
    bench.shed_for.clear()
    bench.ask("a", 200)
    bench.settle()
    assert not bench.shed_for


def test_who_has_left_is_not_begun() -> None:
    bench = Bench()
    asked = bench.ask("a", STARTS_A_TURN + 2)
    asked[-2].dropped = True
    bench.settle()
    assert bench.started == [*asked[:-2], asked[-1]]


def test_health_and_administration_do_not_wait() -> None:
    bench = overloaded()
    for path in ("/health/ready", "/metrics", "/admin/api/keys", "/"):
        (asked,) = bench.ask("noisy", path=path)
        assert bench.started[-1] is asked


def test_many_keys_share_what_there_is() -> None:
    """A thousand keys with a request each are shed as one with a thousand is: the queue is no longer for them."""
    bench = Bench(longest_s=1.0)
    for number in range(4 * TURNS * STARTS_A_TURN):
        bench.ask(f"key {number}")
        if number % (3 * STARTS_A_TURN) == 0:
            bench.turn()
    assert bench.queue.waiting < 0.6 / 0.001
    assert {reason for _, reason in bench.shed_for} == {"wait"}


def test_who_was_shed_is_heard_again_little_by_little() -> None:
    """However many ask at once, a turn has to do with few of them; and all have their turn again."""
    bench = overloaded()
    asked = 100 * STARTS_A_TURN
    bench.ask("noisy", asked)
    before, unheard = bench.heard, bench.unheard
    assert unheard > 80 * STARTS_A_TURN
    while bench.unheard:
        begun, heard = len(bench.started), bench.heard
        bench.turn()
        assert bench.heard - heard <= bench.queue.clients_a_turn
        assert not bench.queue.waiting or len(bench.started) - begun == STARTS_A_TURN
    assert bench.heard - before == unheard
    bench.settle()


def test_slow_requests_begin_in_smaller_numbers() -> None:
    """So that a turn of the loop takes as long as it does with quick ones."""
    bench = Bench(longest_s=1000)
    bench.ask("a", 4000)
    for _ in range(100):
        bench.turn(took_s=0.004 * (bench.started_now or 1))
    assert bench.started_now == 5
    while bench.queue.waiting:
        bench.turn(took_s=0.0005 * bench.started_now)


@pytest.mark.parametrize("fails_in", ["start", "shed"])
def test_a_request_that_fails_keeps_nobody_waiting(fails_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where the next turn is asked for only at the end of this one: whoever waits then waits for ever."""

    def fail(*_: Any) -> None:
        monkeypatch.undo()
        raise RuntimeError("broken")

    bench = Bench()
    bench.ask("a", STARTS_A_TURN)
    asked = bench.ask("a", 2 * STARTS_A_TURN)
    monkeypatch.setattr(bench, fails_in, fail)
    with pytest.raises(RuntimeError, match="broken"):
        bench.turn(took_s=2.0 if fails_in == "shed" else TURN_S)
    bench.settle()
    assert bench.queue.waiting == 0
    told = [one for one, _ in bench.shed_for]
    assert [one for one in asked if one not in bench.started and one not in told] == asked[:1]
