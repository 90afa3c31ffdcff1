"""Cancel a coroutine at every place where it can be suspended, one place a run."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine that is cancelled at its nth suspension.

    `late` cancels when what it waits for has just come, before it has seen it: the moment at which a resource that was
    handed over is lost most easily.
    """

    def __init__(self, inner: Coroutine[Any, Any, Any], nth: int, late: bool) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.suspensions = 0
        self._inner = inner
        self._nth = nth
        self._late = late

    def send(self, value: Any) -> Any:
        return self._suspended(self._inner.send(value))

    def throw(self, *error: Any) -> Any:
        return self._suspended(self._inner.throw(*error))

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def _suspended(self, future: Any) -> Any:
        self.suspensions += 1
        if self.suspensions == self._nth:
            assert self.task is not None
            cancel = self.task.cancel
            if self._late and isinstance(future, asyncio.Future):
                future.add_done_callback(lambda _: cancel())
            else:
                asyncio.get_running_loop().call_soon(cancel)
        return future


async def cancel_at_every_await(
    run: Callable[[], Coroutine[Any, Any, Any]],
    after_each: Callable[[], Awaitable[None]] | None = None,
    *,
    late: bool = False,
) -> int:
    """Run `run()` again and again, cancelled at its 1st, 2nd, … suspension, until it ends without having been reached.

    After every run `after_each` may check what is left over. Returns the number of suspensions. Raises AssertionError if a
    cancelled run swallows its cancellation.
    """
    nth = 0
    while True:
        nth += 1
        counted = _Counted(run(), nth, late)
        counted.task = asyncio.get_running_loop().create_task(counted)
        await asyncio.wait([counted.task])
        reached = counted.suspensions >= nth
        if reached and not counted.task.cancelled():
            error = counted.task.exception()
            raise AssertionError(f"the cancellation at suspension {nth} became {error!r}") from error
        if not reached:
            counted.task.result()
        if after_each is not None:
            await after_each()
        if not reached:
            return nth - 1
