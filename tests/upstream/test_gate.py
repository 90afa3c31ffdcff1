"""The gate: never more than its places, nobody overtaken, no place lost to a cancellation."""

import asyncio
import random
from collections.abc import Callable

import pytest
from kit.cancel import cancel_at_every_await

from xrouter.errors import UpstreamError
from xrouter.upstream.gate import Gate


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def suspends(coroutine: object) -> bool:
    """Whether a coroutine's first step waits for anything."""
    try:
        coroutine.send(None)  # type: ignore[attr-defined]
    except StopIteration:
        return False
    return True


async def test_free_place_does_not_suspend() -> None:
    gate = Gate("g", 1, 1)
    assert not suspends(gate.acquire("a"))
    assert (gate.active, gate.waiting) == (1, 0)
    gate.release()
    assert gate.active == 0


async def test_without_places_anyone_may_enter() -> None:
    gate = Gate("g", None, 1)
    for _ in range(1000):
        assert not suspends(gate.acquire("a"))
    assert gate.active == 1000


async def test_never_more_than_its_places() -> None:
    gate = Gate("g", 3, 10)
    inside = most = 0

    async def call(number: int) -> None:
        nonlocal inside, most
        async with gate.place(str(number % 4)):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(call(number) for number in range(200)))
    assert (most, gate.active, gate.waiting) == (3, 0, 0)


async def served(gate: Gate, keys: str) -> str:
    """Callers with these keys, in this order, behind one that holds the only place: who is served when."""
    await gate.acquire("first")
    order: list[str] = []

    async def call(key: str) -> None:
        async with gate.place(key):
            order.append(key)

    tasks = []
    for key in keys:
        tasks.append(asyncio.create_task(call(key)))
        await asyncio.sleep(0)
    gate.release()
    await asyncio.gather(*tasks)
    return "".join(order)


async def test_accounts_take_turns() -> None:
    assert await served(Gate("g", 1, 10), "aaaaabbc") == "abcabaaa"


async def test_one_account_is_served_in_order() -> None:
    gate = Gate("g", 1, 10)
    await gate.acquire("x")
    order: list[int] = []

    async def call(number: int) -> None:
        async with gate.place("a"):
            order.append(number)

    tasks = [asyncio.create_task(call(number)) for number in range(50)]
    await settle()
    gate.release()
    await asyncio.gather(*tasks)
    assert order == list(range(50))


async def test_newcomer_does_not_overtake() -> None:
    """Between a release and the waiter's waking the place is already the waiter's."""
    gate = Gate("g", 1, 10)
    await gate.acquire("a")
    waiter = asyncio.create_task(gate.acquire("b"))
    await settle()
    gate.release()
    newcomer = gate.acquire("c")
    assert suspends(newcomer)
    await waiter
    newcomer.close()
    assert (gate.active, gate.waiting) == (1, 0)


async def test_queue_has_a_deadline() -> None:
    gate = Gate("giga", 1, 0.02)
    await gate.acquire("a")
    with pytest.raises(UpstreamError) as caught:
        await gate.acquire("b")
    assert (caught.value.status, caught.value.type, caught.value.retry) == (429, "rate_limit_exceeded", False)
    assert caught.value.retry_after_s == 1.0
    assert "giga" not in caught.value.message
    assert (gate.active, gate.waiting) == (1, 0)
    gate.release()
    assert not suspends(gate.acquire("b"))


async def test_cancelled_waiter_leaves_the_queue() -> None:
    gate = Gate("g", 1, 10)
    await gate.acquire("a")
    waiters = [asyncio.create_task(gate.acquire(key)) for key in "bbc"]
    await settle()
    waiters[0].cancel()
    await settle()
    assert gate.waiting == 2
    gate.release()
    await settle()
    assert [waiter.done() for waiter in waiters] == [True, True, False]


async def test_place_granted_to_a_cancelled_waiter_goes_on() -> None:
    """Release and cancellation in one turn of the loop: the place must not be lost. Fails if `_wait` only leaves."""
    gate = Gate("g", 1, 10)
    await gate.acquire("a")
    cancelled, next_one = (asyncio.create_task(gate.acquire(key)) for key in "bc")
    await settle()
    gate.release()
    cancelled.cancel()
    await asyncio.wait_for(next_one, 1)
    assert cancelled.cancelled()
    gate.release()
    assert (gate.active, gate.waiting) == (0, 0)


@pytest.mark.parametrize("late", [False, True])
async def test_cancelled_at_every_await(late: bool) -> None:
    gate = Gate("g", 1, 10)

    async def call() -> None:
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, gate.release)
        async with gate.place("a"):
            await asyncio.sleep(0)

    async def check() -> None:
        await settle()
        assert gate.waiting == 0
        assert gate.active == 0
        await gate.acquire("holder")

    await gate.acquire("holder")
    assert await cancel_at_every_await(call, check, late=late) == 2


async def test_random_walk() -> None:
    """Whatever the order of calls, cancellations and deadlines: no place is lost and none made up."""
    chance = random.Random(7)
    gate = Gate("g", 4, 0.005)

    async def call(key: str) -> None:
        async with gate.place(key):
            assert gate.active <= 4
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(chance.choice([0, 0, 0.001]))

    tasks: list[asyncio.Task[None]] = []
    for _ in range(2000):
        tasks.append(asyncio.create_task(call(chance.choice("abcde"))))
        if chance.random() < 0.3:
            chance.choice(tasks[-20:]).cancel()
        if chance.random() < 0.2:
            await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError, UpstreamError}
    assert (gate.active, gate.waiting) == (0, 0)
    assert not gate._queues


async def test_a_spare_place_is_given_up_to_the_first_who_waits() -> None:
    """Fails if `_wait` asks nobody to give up: the caller would wait for as long as the spare work takes."""
    gate = Gate("g", 2, 10)
    asked: list[str] = []

    def give_up(name: str) -> Callable[[], object]:
        return lambda: asked.append(name)

    spare = [give_up("first"), give_up("second")]
    assert all(gate.take_spare(each) for each in spare)
    assert not gate.take_spare(give_up("third")), "never more than its places"
    waiting = asyncio.create_task(gate.acquire("a"))
    await settle()
    assert (asked, waiting.done()) == (["first"], False)
    gate.release_spare(spare[0])
    await settle()
    assert waiting.done()
    assert gate.active == 2
    gate.release_spare(spare[1])
    gate.release()
    assert (gate.active, gate.waiting) == (0, 0)


async def test_spare_work_that_has_ended_is_asked_nothing() -> None:
    gate = Gate("g", 1, 10)
    asked: list[int] = []

    def give_up() -> None:
        asked.append(1)

    assert gate.take_spare(give_up)
    gate.release_spare(give_up)
    await gate.acquire("a")
    waiting = asyncio.create_task(gate.acquire("a"))
    await settle()
    assert asked == []
    gate.release()
    await waiting
    gate.release()
    assert gate.active == 0
