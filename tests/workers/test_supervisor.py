"""The supervisor when something comes between: no room for a process, a death in the middle of a reload, a stop."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from kit.gateway import new_key
from kit.serving import Serving, serving, until

from xrouter.sandbox.running import Sandbox
from xrouter.workers.backoff import Backoff
from xrouter.workers.control import Answer, Question, ask
from xrouter.workers.messages import WorkerState

# A filter of the operator's own. Where `held` says so, it takes its time to start: all that are `new`, or one process.
PART = """
import asyncio, errno, os
from dataclasses import dataclass
from pathlib import Path

here = Path(__file__).parent
system_fork = os.fork

def fork():
    if (here / "no_room").exists():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return system_fork()

os.fork = fork

class Part:
    needs = provides = frozenset()
    started = False  # in this process

    @dataclass(frozen=True)
    class Config:
        pass

    def __init__(self, app, config, services):
        self.app = app

    async def start(self):
        pid, held = str(os.getpid()), here / "held"
        note("starts")
        while held.exists() and held.read_text() in ({pid} if Part.started else {pid, "new"}):
            await asyncio.sleep(0.02)
        Part.started = True
        note("built")

    async def aclose(self):
        note("closed")

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)

def note(what):
    with (here / "notes").open("a") as notes:
        notes.write(f"{what} {os.getpid()}\\n")
"""
SECOND = "  local/second: {price: free, routes: [{upstream: local, model: sandbox-large}]}\n"


class Fleet:
    """A gateway of three workers whose chain has that filter."""

    def __init__(self, gateway: Serving, headers: dict[str, str]) -> None:
        self.gateway = gateway
        self.headers = headers
        self.config = gateway.config
        self.text = self.config.read_text()

    @property
    def folder(self) -> Path:
        return self.config.parent

    def workers(self) -> list[WorkerState]:
        return ask(self.config, Question("fleet")).workers

    def all_serve(self) -> bool:
        return [worker.state for worker in self.workers()] == ["serving"] * 3

    def kill(self, number: int) -> int:
        """SIGKILL one worker. The pid of the one that follows it, once there is one."""
        old = self.workers()[number - 1].pid
        os.kill(old, signal.SIGKILL)
        return until(lambda: next((w.pid for w in self.workers() if w.number == number and w.pid != old), 0), "another")

    def hold(self, whom: str) -> None:
        """Its part does not come to the end of its start before `let_go`."""
        (self.folder / "held").write_text(whom)

    def let_go(self) -> None:
        (self.folder / "held").unlink()

    def notes(self) -> list[str]:
        return (self.folder / "notes").read_text().splitlines()

    def offer(self, text: str) -> None:
        """What the file says from now on, put there at once."""
        (self.folder / "beside").write_text(text)
        (self.folder / "beside").rename(self.config)

    def offer_second(self) -> None:
        self.offer(self.text.replace("models:\n", "models:\n" + SECOND))

    def every_worker_has_second(self) -> bool:
        """As far as thirty new connections, which the kernel spreads over the workers, can tell."""
        url = self.gateway.url + "/v1/models"
        answers = [httpx2.get(url, headers=self.headers).json()["data"] for _ in range(30)]
        return all("local/second" in [model["id"] for model in models] for models in answers)


@pytest.fixture
def fleet(config: Path, sandbox: Sandbox) -> Iterator[Fleet]:
    (config.parent / "part.py").write_text(PART)
    text = config.read_text().replace("filters: [auth,", "filters: [part:Part, auth,")
    config.write_text(text.replace("drain_s: 5", "drain_s: 5, watch_config: false"))
    headers = {"Authorization": "Bearer " + new_key(f"sqlite:///{config.parent}/gateway.db")}
    with serving(config, sandbox.environ) as gateway:
        yield Fleet(gateway, headers)


@contextmanager
def reloading(fleet: Fleet) -> Iterator[Callable[[], Answer]]:
    """A reload that has been asked for. The block is given its answer, which it waits for."""
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(ask(fleet.config, Question("reload"))))

    def answer() -> Answer:
        asking.join()
        return answers[0]

    asking.start()
    yield answer
    asking.join()


def test_a_worker_that_cannot_be_forked_is_tried_again_and_the_others_serve(fleet: Fleet) -> None:
    """Fails where fork's EAGAIN goes through the supervisor: it ends, and all workers with it."""
    (fleet.folder / "no_room").touch()
    os.kill(fleet.workers()[1].pid, signal.SIGKILL)
    until(lambda: sum("worker 2 cannot be started" in line for line in fleet.gateway.messages()) >= 2, "two tries")
    assert [worker.number for worker in fleet.workers()] == [1, 3]
    assert httpx2.get(fleet.gateway.url + "/health/ready").status_code == 200
    before = {worker.pid for worker in fleet.workers()}
    fleet.gateway.signal(signal.SIGUSR2)
    until(lambda: any("worker 1 cannot be started" in line for line in fleet.gateway.messages()), "a try to replace")
    assert {worker.pid for worker in fleet.workers()} == before
    (fleet.folder / "no_room").unlink()
    until(lambda: fleet.all_serve() and not before & {worker.pid for worker in fleet.workers()}, "three new workers")
    assert fleet.gateway.stop() == 0


def test_a_rolling_restart_goes_on_after_a_successor_that_could_not_start(fleet: Fleet) -> None:
    """Fails where that ends the restart: the database may have been away for a second."""
    before = {worker.pid for worker in fleet.workers()}
    fleet.hold("new")
    fleet.gateway.signal(signal.SIGUSR2)
    (first,) = until(lambda: {worker.pid for worker in fleet.workers()} - before, "a successor")
    os.kill(first, signal.SIGKILL)
    until(lambda: first not in {worker.pid for worker in fleet.workers()}, "its end")
    assert before <= {worker.pid for worker in fleet.workers()}
    fleet.let_go()
    until(lambda: fleet.all_serve() and not before & {worker.pid for worker in fleet.workers()}, "three new workers")


def test_f19_a_worker_that_is_replaced_in_the_middle_of_a_reload_follows_it(fleet: Fleet) -> None:
    """Fails where only those take part that served when it began: the new one goes on with the old configuration."""
    fleet.hold(str(fleet.workers()[0].pid))
    fleet.offer_second()
    with reloading(fleet) as answer:
        until(lambda: sum("starts" in note for note in fleet.notes()) == 6, "three that build it")
        follower = fleet.kill(3)
        until(lambda: fleet.notes().count(f"built {follower}") == 2, "one more that has built both")
        fleet.offer("broken:\n" + fleet.text)
        fleet.let_go()
        assert answer().problem is None
    assert fleet.every_worker_has_second()


def test_f19_a_worker_gets_what_was_agreed_while_it_started_whatever_the_file_says_now(fleet: Fleet) -> None:
    """Fails where it makes all read the file again: that is broken by now, so it goes on with the old configuration."""
    fleet.hold("new")
    follower = fleet.kill(3)
    until(lambda: f"starts {follower}" in fleet.notes(), "one that starts")
    fleet.offer_second()
    assert ask(fleet.config, Question("reload")).problem is None
    fleet.offer("broken:\n" + fleet.text)
    fleet.let_go()
    until(fleet.all_serve, "three workers")
    assert fleet.every_worker_has_second()


def test_f21_a_stop_in_the_middle_of_a_reload_closes_what_was_built_for_it(fleet: Fleet) -> None:
    """Fails where a worker forgets what it has prepared: two filters are never closed. And nobody is told "reloaded"."""
    fleet.hold(str(fleet.workers()[0].pid))
    fleet.offer_second()
    with reloading(fleet) as answer:
        until(lambda: sum("built" in note for note in fleet.notes()) == 5, "two that have built it")
        assert fleet.gateway.stop() == 0
        assert answer().problem == "the gateway is stopping"
    built, closed = (
        sorted(note.split()[1] for note in fleet.notes() if note.startswith(what)) for what in ("built", "closed")
    )
    assert len(built) == 5
    assert closed == built


def test_signals_that_a_whole_group_hears_do_not_end_a_worker(fleet: Fleet) -> None:
    """Fails where a worker leaves SIGUSR2 or SIGHUP to the system: it is killed with all its streams."""
    before = {worker.pid for worker in fleet.workers()}
    for pid in before:
        os.kill(pid, signal.SIGUSR2)
        os.kill(pid, signal.SIGHUP)
    for _ in range(20):
        assert httpx2.get(fleet.gateway.url + "/health/ready").status_code == 200
    assert {worker.pid for worker in fleet.workers()} == before


def test_only_deaths_in_a_row_make_a_successor_wait_longer() -> None:
    """Fails where all deaths since the start count: a worker that dies once a day is away for 10 s in the end."""
    backoff = Backoff()
    assert [backoff.pause_s(1, 0.1) for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 10, 10]
    assert backoff.pause_s(2, 0.1) == 0.25
    assert backoff.pause_s(1, 60) == 0
    assert backoff.pause_s(1, 0.1) == 0.25
