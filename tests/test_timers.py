"""Timers that share one of the loop's."""

import asyncio
import gc
import math
import random
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import pytest

from xrouter.timers import GRAIN_S, LazyTimer


class ManualLoop(asyncio.BaseEventLoop):
    """A loop whose time is set by hand. It counts the timers that were asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.asked = 0
        self.failures: list[dict[str, Any]] = []
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        self.asked += 1
        return super().call_at(when, callback, *args, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)

    def pass_to(self, now: float) -> None:
        """Let time go by, with every timer of the loop's fired at its own time."""
        while pending := [handle for handle in self._scheduled if not handle.cancelled() and handle.when() <= now]:
            first = min(pending, key=lambda handle: handle.when())
            self._scheduled.remove(first)
            self.now = max(self.now, first.when())
            first._run()
        self.now = now


@pytest.fixture
def loop() -> Iterator[ManualLoop]:
    made = ManualLoop()
    yield made
    made.close()


def test_it_fires_after_its_deadline_and_within_a_grain(loop: ManualLoop) -> None:
    fired: list[float] = []
    timer = LazyTimer(loop, lambda: fired.append(loop.now))

    timer.arm(103.01)
    loop.pass_to(103.009)
    assert fired == []
    loop.pass_to(110)

    assert len(fired) == 1
    assert 103.01 <= fired[0] <= 103.01 + GRAIN_S


def test_a_later_deadline_leaves_it_and_an_earlier_one_moves_it(loop: ManualLoop) -> None:
    fired: list[float] = []
    timer = LazyTimer(loop, lambda: fired.append(loop.now))

    timer.arm(103)
    timer.arm(120)
    timer.arm(math.inf)
    timer.arm(102)
    loop.pass_to(130)

    assert fired == [102]


def test_it_can_be_armed_again_from_its_callback(loop: ManualLoop) -> None:
    fired: list[float] = []

    def fire() -> None:
        fired.append(loop.now)
        if len(fired) < 3:
            timer.arm(loop.now + 5)

    timer = LazyTimer(loop, fire)
    timer.arm(101)
    loop.pass_to(200)

    assert fired == [101, 106, 111]


def test_one_that_is_disarmed_or_closed_does_not_fire(loop: ManualLoop) -> None:
    fired: list[int] = []
    timers = [LazyTimer(loop, lambda number=number: fired.append(number)) for number in range(3)]  # type: ignore[misc]
    for timer in timers:
        timer.arm(101)

    timers[0].disarm()
    timers[2].close()
    loop.pass_to(200)

    assert fired == [1]


def test_one_may_disarm_another_of_the_same_turn(loop: ManualLoop) -> None:
    fired: list[str] = []
    first = LazyTimer(loop, lambda: (fired.append("first"), second.disarm()))  # type: ignore[arg-type, return-value]
    second = LazyTimer(loop, lambda: fired.append("second"))
    first.arm(101)
    second.arm(101)

    loop.pass_to(200)

    assert fired == ["first"]


def test_a_callback_that_fails_keeps_no_other_from_its_turn(loop: ManualLoop) -> None:
    fired: list[str] = []

    def fail() -> None:
        raise ValueError("of no use")

    failing, other = LazyTimer(loop, fail), LazyTimer(loop, lambda: fired.append("other"))
    failing.arm(101)
    other.arm(101)

    loop.pass_to(200)

    assert fired == ["other"]
    assert [str(failure["exception"]) for failure in loop.failures] == ["of no use"]


def test_thousands_share_a_few_of_the_loops(loop: ManualLoop) -> None:
    for number in range(8000):
        LazyTimer(loop, lambda: None).arm(110 + number / 8000)

    assert loop.asked <= 2


def test_a_closed_loop_is_freed_with_its_timers() -> None:
    loop = ManualLoop()
    LazyTimer(loop, lambda: None).arm(101)
    loop.close()
    gone = ref(loop)
    del loop
    gc.collect()

    assert gone() is None


@pytest.mark.parametrize("seed", range(30))
def test_any_sequence_fires_as_timers_of_their_own_would(loop: ManualLoop, seed: int) -> None:
    """Against a model: the earliest deadline since the timer last fired or was disarmed."""
    chance = random.Random(seed)
    due: dict[int, float] = {}
    fired: list[tuple[int, float]] = []
    timers: list[LazyTimer] = []

    def callback(number: int) -> Callable[[], None]:
        return lambda: fired.append((number, due.pop(number)))

    timers = [LazyTimer(loop, callback(number)) for number in range(20)]
    for _ in range(600):
        number = chance.randrange(20)
        match chance.randrange(4):
            case 0 | 1:
                deadline = loop.now + chance.uniform(0, 4)
                timers[number].arm(deadline)
                due[number] = min(due.get(number, math.inf), deadline)
            case 2:
                timers[number].disarm()
                due.pop(number, None)
            case _:
                fired.clear()
                loop.pass_to(loop.now + chance.uniform(0, 1))
                assert all(deadline <= loop.now for _, deadline in fired)
                assert all(deadline + GRAIN_S > loop.now for deadline in due.values())


def test_a_far_deadline_is_asked_of_the_loop_once(loop: ManualLoop) -> None:
    """Fails where each nearer one that fires has the loop's timer for the far one made again."""
    far, near = LazyTimer(loop, lambda: None), LazyTimer(loop, lambda: None)
    far.arm(1_000)
    for second in range(101, 151):
        near.arm(second)
        loop.pass_to(second + 0.5)
    assert loop.asked == 1 + 50
    assert len([handle for handle in loop._scheduled if not handle.cancelled()]) == 1
