"""A thread for work that blocks, asked from an event loop.

A thread pool's way there and back (two futures, a condition, a wake-up for each) costs half as much again.

Both ways a byte in a pipe wakes the other side, since it is written without the interpreter's lock. Whoever is woken by a
queue's lock or by `call_soon_threadsafe`, while the one who wakes him still has the interpreter's, runs at once only to
wait for that, and for the lock inside it: on one core two more switches of each thread, each time.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from threading import Thread
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_Job = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]
_Answer = tuple["asyncio.Future[Any]", Any, BaseException | None]
_WAKE: Final = b"\0"
_BYTES: Final = 4096  # of wake-ups that are read at once


class Worker:
    """One thread, begun with its first job; jobs are done one after the other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: deque[_Job] = deque()
        self._answers: deque[_Answer] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None  # that hears of answers
        self._ask = self._heard = -1  # our ends of the pipes, while there is a thread
        self._unanswered = 0
        self._closed = False

    def run(self, work: Callable[..., _T], *arguments: Any) -> "asyncio.Future[_T]":
        """`work`'s result or exception. It is done even if nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        if self._closed:
            future.set_exception(RuntimeError(f"the thread {self._name} has ended"))
            return future
        if self._ask < 0:
            try:
                self._start()
            except (OSError, RuntimeError) as error:  # the system has no thread for us now; the next job tries again
                future.set_exception(error)
                return future
        if loop is not self._loop:
            loop.add_reader(self._heard, self._hear)
            self._loop = loop
        self._unanswered += 1
        self._jobs.append((future, work, arguments))
        os.write(self._ask, _WAKE)
        return future

    def close(self) -> None:
        """Ends the thread after what it has been asked for. Closing twice does nothing more."""
        if self._closed:
            return
        self._closed = True
        if self._ask >= 0:
            os.close(self._ask)
            if not self._unanswered:
                self._hear_no_more()

    def _start(self) -> None:
        asked, ask = os.pipe()
        heard, answer = os.pipe()
        # A daemon: a disk that hangs keeps nobody from exit.
        thread = Thread(target=self._run, args=(asked, answer), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            for end in (asked, ask, heard, answer):
                os.close(end)
            raise
        self._ask, self._heard = ask, heard

    def _run(self, asked: int, answer: int) -> None:
        """In the thread, until our end of its pipe is closed."""
        open_ = True
        while open_:
            open_ = os.read(asked, _BYTES) != b""
            while self._jobs:
                self._do(*self._jobs.popleft())
                os.write(answer, _WAKE)
        os.close(asked)
        os.close(answer)

    def _do(self, future: "asyncio.Future[Any]", work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        result, failure = None, None
        try:
            result = work(*arguments)
        except BaseException as error:  # whatever it is, somebody waits for it
            failure = error
        self._answers.append((future, result, failure))

    def _hear(self) -> None:
        """In the loop: there are answers."""
        os.read(self._heard, _BYTES)
        while self._answers:
            self._unanswered -= 1
            with contextlib.suppress(RuntimeError):  # the loop that asked has been closed: nobody waits
                _answer(*self._answers.popleft())
        if self._closed and not self._unanswered:
            self._hear_no_more()

    def _hear_no_more(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._heard)
        os.close(self._heard)


def _answer(future: "asyncio.Future[Any]", result: Any, failure: BaseException | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
