"""Waiting for a store that is not there when a process starts: after a reboot, or `docker compose up`, it may come later.

There is no limit: whoever started the process sees in its readiness and in the log that it waits, and a gateway whose store
goes away while it serves does not end either. What does not pass by itself (a wrong password, another schema) is not waited
for.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from xrouter.errors import StoreUnavailable
from xrouter.store.engine import StoreAway, StoreError, passes
from xrouter.world import World

log = logging.getLogger("xrouter.app")
T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0  # as often as a gateway that serves looks for its store
_LONGEST_SILENCE_S: Final = 60.0
_LAST_MOMENT_S: Final = 1.0


async def until_there(attempt: Callable[[], Coroutine[Any, Any, T]], world: World, waits: Callable[[], None]) -> T:
    """What `attempt` returns, once it does not fail for a store that is away; `waits` is called each time that it does.

    Raises StoreError for what does not pass, and whatever else `attempt` raises.
    """
    began = world.monotonic()
    pause_s, tell_s, told = _FIRST_PAUSE_S, 0.0, False
    while True:
        try:
            result = await _to_its_end(attempt())
        except (StoreAway, StoreUnavailable) as error:
            problem = _problem(error)
        else:
            if told:
                log.warning("the store is there, after %.1f s", world.monotonic() - began)
            return result
        waited_s = world.monotonic() - began
        if waited_s >= tell_s:
            log.warning("waiting for the store, %.0f s so far: %s", waited_s, problem)
            tell_s, told = waited_s + min(max(waited_s, 1.0), _LONGEST_SILENCE_S), True
        waits()
        await world.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _to_its_end(attempt: Coroutine[Any, Any, T]) -> T:
    """What it returns. Cancelled, it has a moment for its end: SQLAlchemy logs an error where a closing is cut off."""
    task = asyncio.create_task(attempt, name="trying the store")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,), timeout=_LAST_MOMENT_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


def _problem(error: StoreAway | StoreUnavailable) -> str:
    """Why the store is away. Raises StoreError where it is there, and refuses."""
    if isinstance(error, StoreAway):
        return str(error)
    problem = f"the store does not take what a start needs: {error.detail}"
    if error.__cause__ is not None and not passes(error.__cause__):
        raise StoreError(problem) from error
    return problem
