"""Crowds that ask at their own rate whatever the gateway does, fast enough for many times what it can.

A crowd is the clients of one key. A request is due at its time and its latency counts from then. It takes an idle connection
of its crowd, or a new one, and is given up when no answer has come in time. Bytes are made beforehand and the sockets are
the kernel's own, without asyncio: with that one core sends and receives some 20 000 requests a second.
"""

import contextlib
import re
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from clients import Answers

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_RECEIVE_BYTES = 65536
_BATCH = 64  # requests of one crowd, then answers are let in
_LONGEST_WAIT_S = 0.002
_LOOK_S = 0.1  # how often it is looked for requests whose time is up


@dataclass(eq=False)
class Crowd:
    """Clients of one key: what they ask, how often, and for how long they wait."""

    request: bytes
    per_s: float
    clock: Callable[[], float] = time.perf_counter  # whose seconds the rate is in
    patience_s: float = 10.0
    answers: Answers = field(default_factory=Answers)
    sent: int = 0
    connections: int = 0  # made
    shed_s: list[float] = field(default_factory=list)  # how long each 503 took
    idle: list["_Asker"] = field(default_factory=list)
    asked: deque[tuple[float, "_Asker"]] = field(default_factory=deque)  # when, oldest first; also what has ended


class _Asker:
    """One connection."""

    __slots__ = ("crowd", "due", "end", "received", "socket", "waits")

    def __init__(self, crowd: Crowd, host: str, port: int) -> None:
        self.crowd = crowd
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self.waits = False  # for an answer
        self.received = b""
        self.end = 0
        with contextlib.suppress(BlockingIOError):
            self.socket.connect((host, port))

    def ask(self, due: float) -> bool:
        """Send the request. Whether it went out: a connection that is being made takes nothing yet."""
        self.due, self.waits = due, True
        try:
            return self.socket.send(self.crowd.request) == len(self.crowd.request)
        except BlockingIOError:
            return False

    def take(self) -> int:
        """The status of an answer that has come whole; 0: not yet; -1: the connection has ended."""
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return 0
        except OSError:
            return -1
        if not data:
            return -1
        if self.received:
            data = self.received + data
        head = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data, 0, head) if head > 0 else None
        if length is None or len(data) < head + 4 + int(length[1]):
            self.received = data
            return 0
        self.received = b""
        return int(data[9:12])


class _Run:
    """The crowds against one server."""

    def __init__(self, host: str, port: int, crowds: Sequence[Crowd]) -> None:
        self.host, self.port, self.crowds = host, port, crowds
        self.poll = select.epoll()
        self.askers: dict[int, _Asker] = {}

    def send(self, crowd: Crowd, due: float) -> None:
        crowd.sent += 1
        asker = crowd.idle.pop() if crowd.idle else None
        if asker is None:
            asker = _Asker(crowd, self.host, self.port)
            crowd.connections += 1
            self.askers[asker.socket.fileno()] = asker
            self.poll.register(asker.socket, select.EPOLLIN)
        crowd.asked.append((due, asker))
        try:
            if not asker.ask(due):
                self.poll.modify(asker.socket, select.EPOLLOUT)
        except OSError:
            self.lose(asker)

    def receive(self, wait_s: float) -> None:
        for descriptor, event in self.poll.poll(max(0.0, wait_s), 512):
            asker = self.askers.get(descriptor)
            if asker is None:
                continue
            if event == select.EPOLLOUT:  # it is connected
                self.poll.modify(descriptor, select.EPOLLIN)
                try:
                    asker.socket.send(asker.crowd.request)
                except OSError:
                    self.lose(asker)
                continue
            status = asker.take()
            if status < 0:
                self.lose(asker)
            elif status:
                self.answered(asker, status)

    def answered(self, asker: _Asker, status: int) -> None:
        crowd, took_s = asker.crowd, time.perf_counter() - asker.due
        crowd.answers.statuses[status] = crowd.answers.statuses.get(status, 0) + 1
        (crowd.answers.whole_s if status == 200 else crowd.shed_s).append(took_s)
        asker.waits = False
        crowd.idle.append(asker)

    def lose(self, asker: _Asker) -> None:
        """The connection is over, and so is what was asked on it."""
        crowd = asker.crowd
        del self.askers[asker.socket.fileno()]
        asker.socket.close()
        if asker.waits:
            asker.waits = False
            crowd.answers.lost += 1
        elif asker in crowd.idle:
            crowd.idle.remove(asker)

    def give_up(self, now: float) -> None:
        for crowd in self.crowds:
            while crowd.asked and now - crowd.asked[0][0] > crowd.patience_s:
                due, asker = crowd.asked.popleft()
                if asker.waits and asker.due == due:  # else it has been answered, and may have asked again
                    self.lose(asker)

    def close(self) -> None:
        for asker in self.askers.values():
            asker.socket.close()
        self.poll.close()


def offer(url: str, crowds: Sequence[Crowd], seconds: float) -> None:
    """Have the crowds ask for so long, and wait for what is still to come. Their `answers` tell how it went."""
    host, port = url.removeprefix("http://").split(":")
    run = _Run(host, int(port), crowds)
    start = now = looked = time.perf_counter()
    began = [crowd.clock() for crowd in crowds]
    while now - start < seconds:
        soonest = _LONGEST_WAIT_S
        for crowd, zero in zip(crowds, began, strict=True):
            elapsed = crowd.clock() - zero
            late = min(_BATCH, int(elapsed * crowd.per_s) + 1 - crowd.sent)
            for _ in range(late):
                run.send(crowd, now - (elapsed - crowd.sent / crowd.per_s))
            soonest = min(soonest, crowd.sent / crowd.per_s - elapsed)
        run.receive(soonest)
        now = time.perf_counter()
        if now - looked > _LOOK_S:
            looked = now
            run.give_up(now)
    for crowd in crowds:
        crowd.answers.seconds = now - start
        crowd.answers.good_meanwhile = crowd.answers.statuses.get(200, 0)
    while any(asker.waits for asker in run.askers.values()):
        run.receive(_LOOK_S)
        run.give_up(time.perf_counter())
    run.close()
