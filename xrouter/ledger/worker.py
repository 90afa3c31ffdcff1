"""A thread for work that blocks, asked from an event loop.

A thread pool's way there and back (two futures, a condition, a wake-up for each) costs half as much again.
"""

import asyncio
import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

_T = TypeVar("_T")
_Job = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Worker:
    """One thread, begun with its first job; jobs are done one after the other."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._name = name
        self._thread: Thread | None = None
        self._closed = False

    def run(self, work: Callable[..., _T], *arguments: Any) -> "asyncio.Future[_T]":
        """`work`'s result or exception. It is done even if nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        if self._closed:
            future.set_exception(RuntimeError(f"the thread {self._name} has ended"))
            return future
        if self._thread is None:
            thread = Thread(target=self._run, name=self._name, daemon=True)  # a disk that hangs keeps nobody from exit
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread for us now; the next job tries again
                future.set_exception(error)
                return future
            self._thread = thread
        self._jobs.put((future, work, arguments))
        return future

    def close(self) -> None:
        """Ends the thread after what it has been asked for. Closing twice does nothing more."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work, arguments = job
            result, failure = None, None
            try:
                result = work(*arguments)
            except BaseException as error:  # whatever it is, somebody waits for it
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits
                future.get_loop().call_soon_threadsafe(_answer, future, result, failure)
            del job, future, work, arguments, result, failure  # nothing is kept until the next job comes


def _answer(future: "asyncio.Future[Any]", result: Any, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
