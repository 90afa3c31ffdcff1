"""The pace: calls come out in order, evenly, and a cancelled one costs the others nothing."""

import asyncio

import pytest
from hand_clock import HandClock, settle

from xrouter.errors import UpstreamError
from xrouter.upstream.pace import Pace


async def start(pace: Pace, clock: HandClock, calls: int) -> tuple[list[tuple[int, float]], list[asyncio.Task[None]]]:
    passed: list[tuple[int, float]] = []

    async def call(number: int) -> None:
        await pace.wait()
        passed.append((number, round(clock.monotonic() - 1000, 3)))

    tasks = [asyncio.create_task(call(number)) for number in range(calls)]
    await settle()
    return passed, tasks


async def test_calls_are_spaced_in_order() -> None:
    clock = HandClock()
    passed, _ = await start(Pace("p", 10, 30, clock), clock, 5)
    assert passed == [(0, 0.0)]
    await clock.advance(0.25)
    assert passed == [(0, 0.0), (1, 0.1), (2, 0.2)]
    await clock.advance(10)
    assert [at for _, at in passed] == [0.0, 0.1, 0.2, 0.3, 0.4]


async def test_idle_time_is_not_saved_up() -> None:
    clock = HandClock()
    pace = Pace("p", 10, 30, clock)
    await clock.advance(100)
    passed, _ = await start(pace, clock, 3)
    await clock.advance(0.1)
    assert [number for number, _ in passed] == [0, 1]


async def test_lost_time_is_not_caught_up() -> None:
    clock = HandClock()
    passed, _ = await start(Pace("p", 10, 30, clock), clock, 4)
    clock.jump(1.0)
    await clock.advance(0)
    assert passed == [(0, 0.0), (1, 1.0)]
    await clock.advance(0.1)
    assert passed[2:] == [(2, 1.1)]


async def test_cancelled_call_gives_its_turn_away() -> None:
    clock = HandClock()
    passed, tasks = await start(Pace("p", 10, 30, clock), clock, 6)
    for task in tasks[1:5]:
        task.cancel()
    await clock.advance(0.11)
    assert passed == [(0, 0.0), (5, 0.1)]


async def test_too_long_a_queue_is_refused_at_once() -> None:
    clock = HandClock()
    pace = Pace("kind", 10, 0.25, clock)
    passed, tasks = await start(pace, clock, 10)
    refused = [task for task in tasks if task.done() and task.exception() is not None]
    assert len(refused) == 7
    error = refused[0].exception()
    assert isinstance(error, UpstreamError)
    assert (error.status, error.type) == (429, "rate_limit_exceeded")
    await clock.advance(1)
    assert len(passed) == 3


async def test_no_newcomer_overtakes() -> None:
    clock = HandClock()
    pace = Pace("p", 10, 30, clock)
    passed, _ = await start(pace, clock, 3)
    clock.jump(0.1)  # the turn has come, and the sleeper has not woken yet
    late, _ = await start(pace, clock, 1)
    assert late == []
    await clock.advance(1)
    assert [number for number, _ in passed] == [0, 1, 2]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_pace_must_be_positive(rate: float) -> None:
    with pytest.raises(ValueError):
        Pace("p", rate, 1, HandClock())
