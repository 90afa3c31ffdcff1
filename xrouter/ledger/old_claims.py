"""Forgetting what was kept under Idempotency-Keys, a day after it was taken, whether or not anybody takes more.

An old claim binds nobody (`xrouter.store.idempotent_requests`), but beside it lies a sealed answer: it is kept no longer
than was promised, also where clients have ceased to use such keys.
"""

import asyncio
import logging
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.store.engine import reason
from xrouter.store.idempotent_requests import drop_old
from xrouter.world import World

_log = logging.getLogger(__name__)
_EVERY_S: Final = 600.0


class OldClaims:
    """Of one process: `start()` once, `aclose()` before the engine is disposed of."""

    def __init__(self, engine: AsyncEngine, world: World) -> None:
        self._engine = engine
        self._world = world
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="old claims")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                while await drop_old(self._engine, int(self._world.now() * 1e6)):
                    pass
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                _log.warning("old claims of idempotency keys are dropped later: %s", reason(error))
            await self._world.sleep(_EVERY_S)
