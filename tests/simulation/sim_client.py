"""Simulated clients: one request each, what it has received of the answer, and the moment at which it leaves."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from simulation.sim_settings import FREE, PAID, SOLO

from xrouter.filters.base import Message, Scope
from xrouter.wire import decode_json, encode_json

if TYPE_CHECKING:
    from simulation.sim_process import Process

RICH, POOR, TINY, CORRECTED = "rich", "poor", "tiny", "corrected"
ACCOUNTS: Final = (RICH, POOR, TINY, CORRECTED)
KEYS: Final = {"total": (3_000_000_000, None), "daily": (1_000_000_000, "daily"), "open": (None, None)}
_ON_DISCONNECT: Final = "xrouter.on_disconnect"  # what the gateway's own front puts into the scope
_PROMPTS: Final = (
    "Столица Перу?",
    "What is the capital of Peru, and how do I get there?",
    "1 + 1 = ?",
    "Расскажи " * 20,
)


@dataclass(frozen=True)
class Plan:
    """What one client will do."""

    name: str  # sent as X-Request-Id, and the first word of the prompt
    account: str
    key: str
    model: str
    stream: bool
    max_tokens: int | None
    prompt: str
    leaves_after_s: float | None
    leaves_after_messages: int | None
    slow_s: float  # how long each message takes to be read
    own_front: bool  # the gateway's own front tells when a client leaves; others do by `receive` alone

    @property
    def body(self) -> bytes:
        fields: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": self.content}]}
        if self.stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.max_tokens is not None:
            fields["max_tokens"] = self.max_tokens
        return encode_json(fields)

    @property
    def content(self) -> str:
        return f"{self.name} {self.prompt}"


def plan(name: str, chance: random.Random, leaving: float) -> Plan:
    """`leaving`: the share of clients that do not wait for the end."""
    leaves = chance.random() < leaving
    by_time = chance.random() < 0.6
    return Plan(
        name=name,
        account=chance.choices(ACCOUNTS, (6, 3, 1, 2))[0],
        key=chance.choices(list(KEYS), (1, 1, 3))[0],
        model=chance.choices((PAID, SOLO, FREE), (6, 3, 1))[0],
        stream=chance.random() < 0.65,
        max_tokens=chance.choice((None, None, 5, 30, 200)),
        prompt=chance.choice(_PROMPTS),
        leaves_after_s=chance.choice((0.0, 0.01, 0.2, 1.0, 5.0, 20.0)) if leaves and by_time else None,
        leaves_after_messages=chance.randrange(1, 12) if leaves and not by_time else None,
        slow_s=chance.choice((0.0, 0.0, 0.0, 0.01, 0.5)),
        own_front=chance.random() < 0.7,
    )


class Request:
    """One request on its way: the front's side of ASGI, and what the client has of the answer."""

    def __init__(self, planned: Plan, process: "Process", noted: Callable[[str, str], None]) -> None:
        self.plan = planned
        self.process = process
        self.variant = process.variant  # what it begins under is what it ends under
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.messages = 0
        self.complete = False  # the last byte was received
        self.left = False
        self.lost = False  # its process has died
        self.ended = False  # nothing of it goes on in the gateway
        self.over: Callable[[], None] = lambda: None
        self.began_at = process.loop.time()
        self.ended_at = float("inf")
        self.failures = process.books.failures  # commits that had failed before
        self.undisturbed = False  # no commit of its process has failed meanwhile
        self.scope: Scope = {}
        self._noted = noted
        self._loop = process.loop
        self._asked = False
        self._news: asyncio.Event | None = None
        self._on_drop: Callable[[], None] | None = None

    async def run(self) -> None:
        """In the gateway's process, as its front runs an application."""
        self.variant = self.process.variant
        headers = [
            (b"authorization", f"{self.plan.account} {self.plan.key}".encode()),
            (b"x-request-id", self.plan.name.encode()),
        ]
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 1),
        }
        if self.plan.own_front:
            self.scope[_ON_DISCONNECT] = self._on_disconnect
        try:
            await self.process.gateway(self.scope, self._receive, self._send)
        finally:
            self.end()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self.ended_at = self._loop.time()
            self.undisturbed = self.failures == self.process.books.failures and not self.lost
            self.over()

    @property
    def generation(self) -> str | None:
        """None if the gateway has not even begun with it."""
        ctx = self.scope.get("xrouter")
        return None if ctx is None else ctx.generation_id

    def leave(self) -> None:
        """The client closes its connection, and the front of a living process sees it."""
        if not self.left and not self.complete and not self.lost:
            self.left = True
            self._noted("client left", self.plan.name)
            self._loop.call_soon(self._drop)

    def lose(self) -> None:
        """The process has died."""
        self.lost = True
        self.end()

    @property
    def finished(self) -> bool:
        """The client has the whole of a good answer."""
        return self.complete and self.status == 200 and not self.failed

    @property
    def failed(self) -> bool:
        """The stream said that it failed."""
        return any("error" in event for event in self.events())

    def events(self) -> list[dict[str, Any]]:
        """What the client can read of the answer, which may end anywhere."""
        data = b"".join(self.pieces)
        if not self.plan.stream or self.status != 200:
            return []
        lines = [line[6:] for line in data.split(b"\n\n") if line.startswith(b"data: ")]
        return [decode_json(line) for line in lines if line != b"[DONE]"]

    def text(self) -> str:
        if self.status != 200:
            return ""
        if self.plan.stream:
            deltas = (choice["delta"] for event in self.events() for choice in event["choices"])
            return "".join(delta.get("content") or "" for delta in deltas)
        return decode_json(b"".join(self.pieces))["choices"][0]["message"]["content"] if self.complete else ""

    def _drop(self) -> None:
        self._wake()
        callback, self._on_drop = self._on_drop, None
        if callback is not None and not self.complete:
            callback()

    def _on_disconnect(self, callback: Callable[[], None] | None) -> None:
        if callback is not None and self.left and not self.complete:
            callback()
        else:
            self._on_drop = callback

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()

    async def _receive(self) -> Message:
        if self._asked:
            while not self.left and not self.complete:
                self._news = asyncio.Event()
                await self._news.wait()
        if self.left or self.complete:
            return {"type": "http.disconnect"}
        self._asked = True
        return {"type": "http.request", "body": self.plan.body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if self.plan.slow_s and not self.left:
            await asyncio.sleep(self.plan.slow_s)
        if self.left or self.lost:
            return
        if message["type"] == "http.response.start":
            assert self.status is None, "a second head"
            self.status, self.headers = message["status"], dict(message["headers"])
            return
        assert self.status is not None, f"{self.plan.name} has a body before the head"
        assert not self.complete, "more after the last byte"
        self.pieces.append(message.get("body", b""))
        self.messages += 1
        self._noted("client message", self.plan.name)
        if not message.get("more_body", False):
            self.complete = True
            self._wake()
        elif self.messages == self.plan.leaves_after_messages:
            self.leave()
