"""A thread that is asked from an event loop."""

import asyncio
import os
import threading
import time

import pytest

from xrouter.ledger.worker import Worker


async def test_jobs_are_done_in_order_in_one_other_thread() -> None:
    worker, done = Worker("jobs"), []

    def job(number: int) -> tuple[int, str]:
        time.sleep(0.001 if number % 2 else 0)
        done.append(number)
        return number, threading.current_thread().name

    results = await asyncio.gather(*(worker.run(job, number) for number in range(20)))
    assert results == [(number, "jobs") for number in range(20)]
    assert done == list(range(20))
    worker.close()


async def test_who_waits_is_told_of_a_failure_and_the_next_job_is_done() -> None:
    worker = Worker("jobs")
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    assert await worker.run(lambda: 5) == 5
    worker.close()


async def test_a_job_is_done_though_nobody_waits_any_more() -> None:
    worker, done = Worker("jobs"), threading.Event()
    begun = worker.run(time.sleep, 0.01)
    left = worker.run(done.set)
    left.cancel()
    await begun
    assert await worker.run(done.is_set)
    worker.close()


async def test_closed_it_ends_after_what_it_was_asked_for_and_takes_no_more() -> None:
    worker = Worker("jobs")
    last = worker.run(threading.current_thread)
    worker.close()
    worker.close()
    (await last).join(5)
    assert not (await last).is_alive()
    with pytest.raises(RuntimeError, match="jobs has ended"):
        await worker.run(print)


def test_a_loop_that_is_gone_does_not_end_the_thread() -> None:
    worker = Worker("jobs")
    go = threading.Event()

    async def leave() -> None:
        worker.run(go.wait, 5)

    asyncio.run(leave())
    go.set()

    async def ask() -> int:
        return await worker.run(lambda: 3)

    assert asyncio.run(ask()) == 3
    worker.close()


async def test_closed_it_leaves_no_descriptor() -> None:
    """Fails where one end of a pipe is kept, whether it is closed while it works or when all is done."""
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        unused, idle, busy = Worker("unused"), Worker("idle"), Worker("busy")
        thread = await idle.run(threading.current_thread)
        last = busy.run(threading.current_thread)
        for worker in (unused, idle, busy):
            worker.close()
        for ended in (thread, await last):
            ended.join(5)
    assert len(os.listdir("/dev/fd")) == before


async def test_a_thread_that_cannot_be_made_is_made_for_the_next_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a thread that never began counts as one: the next job then waits for ever."""
    worker = Worker("jobs")
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        await worker.run(lambda: 1)
    async with asyncio.timeout(5):
        assert await worker.run(lambda: 2) == 2
    worker.close()
