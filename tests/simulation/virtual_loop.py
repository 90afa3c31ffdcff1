"""Event loops whose time is virtual and whose order is drawn from a seed.

Each simulated process has a `VirtualLoop` of its own; one `Scheduler` runs them all in one thread. Time passes only when
nobody has anything to do, and then at once, to the next timer. What is ready in a loop is run in a random order, loop after
loop in a random order. A loop that is killed runs nothing any more, not even the `finally` of its tasks; one that is paused
runs everything later, as a stopped process does.
"""

import asyncio
import contextvars
import heapq
import random
from asyncio.events import _set_running_loop
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

Work = Callable[..., Any]
_CLOSES = 100  # how often a dead task's coroutine may await in its clean-up before it is given up


class Failure(Exception):
    """What has happened must not happen."""


class Stuck(Failure):
    """Nobody can ever go on, or they go on for ever."""


class Scheduler:
    """Virtual time, shared by every loop."""

    def __init__(self, chance: random.Random, most_handles: int) -> None:
        self.chance = chance
        self.time = 1000.0  # seconds, monotonic
        self.handles = 0  # callbacks run: the measure of a run's length
        self._most_handles = most_handles
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._armed = 0
        self._loops: list[VirtualLoop] = []
        self.problem: str | None = None  # set by whoever sees one: the run ends

    def add(self, loop: "VirtualLoop") -> None:
        self._loops.append(loop)

    def arm(self, handle: asyncio.TimerHandle) -> None:
        self._armed += 1
        heapq.heappush(self._timers, (handle.when(), self._armed, handle))

    def run_until(self, done: "asyncio.Task[Any]") -> None:
        """Raises what the task raised, Stuck, and Failure once there is a problem."""
        chance = self.chance.random
        while not done.done():
            busy = [loop for loop in self._loops if loop.ready and not loop.paused]
            if busy:
                busy[int(chance() * len(busy))].run_ready()
                if self.problem is not None:
                    raise Failure(self.problem)
                if self.handles > self._most_handles:
                    raise Stuck(f"it has not ended after {self.handles} steps")
            else:
                self._pass_time()
        done.result()

    def _pass_time(self) -> None:
        """On to the next timer, and all that are due with it."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise Stuck("everybody waits for ever")
        self.time = max(self.time, timers[0][0])
        while timers and timers[0][0] <= self.time:
            handle = heapq.heappop(timers)[2]
            loop: VirtualLoop = handle._loop  # type: ignore[attr-defined]
            if not handle.cancelled() and not loop.dead:
                loop.ready.append(handle)
        self._loops = [loop for loop in self._loops if not loop.dead]


class Executor:
    """What a thread pool of one thread is here: jobs one after the other, each with its delays."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[asyncio.Future[Any], Work, tuple[Any, ...]]] = deque()
        self.busy = False


class VirtualLoop(asyncio.AbstractEventLoop):
    """`delay` is drawn before and after each job of an executor; `complain` is told of exceptions that nobody caught."""

    def __init__(self, scheduler: Scheduler, delay: Callable[[], float], complain: Callable[[str], None]) -> None:
        self.ready: list[asyncio.Handle] = []
        self.paused = False
        self.dead = False
        self.fuse: int | None = None  # callbacks until the process is killed
        self.blown: Callable[[], None] = lambda: None  # what kills it
        self._scheduler = scheduler
        self._delay = delay
        self._complain = complain
        self._executors: dict[int, Executor] = {}
        self._remains: set[asyncio.Task[Any]] = set()
        scheduler.add(self)

    def run_ready(self) -> None:
        """One turn: everything that is ready now."""
        turn, self.ready = self.ready, []
        scheduler = self._scheduler
        if len(turn) > 1:
            scheduler.chance.shuffle(turn)
        _set_running_loop(self)
        try:
            for handle in turn:
                if handle._cancelled:  # type: ignore[attr-defined]
                    continue
                handle._run()
                scheduler.handles += 1
                if self.fuse is not None:
                    self.fuse -= 1
                    if self.fuse <= 0:
                        self.fuse = None
                        self.blown()
                        return
        finally:
            _set_running_loop(None)

    def kill(self) -> None:
        """Nothing of this loop runs again. Its tasks are kept until `bury`: who frees a task runs its clean-up."""
        self.dead = True
        self._remains |= asyncio.all_tasks(self)
        self.ready = []

    def bury(self) -> None:
        """Close the coroutines of a dead loop: their clean-up runs against a loop that refuses everything."""
        _set_running_loop(self)
        try:
            for task in self._remains:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _close(task.get_coro())
        finally:
            _set_running_loop(None)
        self._remains.clear()

    def pending(self, work: Work) -> list[tuple[Any, ...]]:
        """The arguments of the jobs of `work` that have been asked for and not begun."""
        jobs = [job for executor in self._executors.values() for job in executor.jobs]
        return [arguments for _, asked, arguments in jobs if asked == work]

    # What asyncio and the gateway ask of a loop.

    def time(self) -> float:
        return self._scheduler.time

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.dead

    def is_closed(self) -> bool:
        return self.dead

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.dead:
            self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # there is one thread

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._scheduler.time + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.dead:
            self._scheduler.arm(handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are passed over when their time comes."""

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> "asyncio.Task[Any]":
        if self.dead:
            coro.close()
            raise RuntimeError("the process is dead")
        return asyncio.Task(coro, loop=self, name=name or "task", context=context)

    def run_in_executor(self, executor: Any, func: Work, *args: Any) -> "asyncio.Future[Any]":
        """The job runs here, after a delay, and is answered after another one: a process may die in both."""
        if self.dead:
            raise RuntimeError("the process is dead")
        future = self.create_future()
        queue = self._executors.setdefault(id(executor), Executor())
        queue.jobs.append((future, func, args))
        if not queue.busy:
            queue.busy = True
            self.call_later(self._delay(), self._work, queue)
        return future

    def _work(self, queue: Executor) -> None:
        future, func, args = queue.jobs.popleft()
        if not future.cancelled():
            try:
                result, error = func(*args), None
            except Exception as raised:
                result, error = None, raised
            self.call_later(self._delay(), _answer, future, result, error)
        if queue.jobs:
            self.call_later(self._delay(), self._work, queue)
        else:
            queue.busy = False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self._complain(f"{context.get('message')}: {context.get('exception')!r}")

    default_exception_handler = call_exception_handler


def _close(coroutine: Any) -> None:
    """What it does on the way is nothing: it awaits in vain, and finds its loop closed."""
    for _ in range(_CLOSES):
        with suppress(BaseException):
            coroutine.close()
            return


def _answer(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
