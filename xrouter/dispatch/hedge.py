"""A second call when the first is slow to answer: whichever has something to say first wins, the other one is dropped.

As in "The Tail at Scale" (Dean and Barroso, 2013): a few more calls cut off the slowest answers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Start = Coroutine[Any, Any, T]


async def first_of(
    first: Start[T], second: Callable[[], Start[T] | None], after_s: float, discard: Callable[[T], Awaitable[None]]
) -> T:
    """The result of `first`, or of what `second` gives after `after_s` seconds if that comes earlier.

    `second` may give None: no hedge. If one fails the other one goes on; if both have failed, the later failure is raised.
    When this returns or raises, the loser has ended, cancelled; a result that it still had goes to `discard`.
    """
    racing = [asyncio.create_task(first, name="first call")]
    winner: asyncio.Task[T] | None = None
    try:
        pending = set(racing)
        done, pending = await asyncio.wait(pending, timeout=after_s)
        if not done and (hedge := second()) is not None:
            racing.append(asyncio.create_task(hedge, name="hedged call"))
            pending.add(racing[-1])
        while winner is None:
            if not done:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            winner = next((task for task in racing if task in done and task.exception() is None), None)
            if winner is None and not pending:
                return done.pop().result()  # raises
            done = set()
        return winner.result()
    finally:
        await _drop([task for task in racing if task is not winner], discard)


async def _drop(losers: list[asyncio.Task[T]], discard: Callable[[T], Awaitable[None]]) -> None:
    for task in losers:
        task.cancel()
    if losers:
        await asyncio.wait(losers)
    for task in losers:
        if not task.cancelled() and task.exception() is None:
            await discard(task.result())
