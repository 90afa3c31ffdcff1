"""The app behind the front in these tests: what it does depends on the path, what it saw can be asked afterwards."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from kit.raw_client import RawClient

from xrouter.config.settings import Server
from xrouter.front import Refusal, ThreadedServer

Message = dict[str, Any]
CHUNK = b"x" * 16384


class Probe:
    """An ASGI app. `seen`: scope and body of every request that came in whole; `left`: paths whose client went away."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.seen: list[tuple[dict[str, Any], bytes]] = []
        self.left: list[str] = []
        self.sent = 0
        self.refusals: list[Refusal] = []
        self._changed = threading.Condition()

    def note(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Until `condition` about this probe holds."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("this app knows no lifespan")
        path = scope["path"]
        self.note(lambda: self.started.append(path))
        action = getattr(self, "do_" + path.strip("/").partition("/")[0].replace("-", "_"), self.do_echo)
        await action(scope, receive, send)

    async def body(self, scope: dict[str, Any], receive: Any) -> bytes | None:
        parts = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.note(lambda: self.left.append(scope["path"]))
                return None
            parts += message["body"]
            if not message["more_body"]:
                break
        body = bytes(parts)
        self.note(lambda: self.seen.append((scope, body)))
        return body

    async def do_echo(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answers with the request's body."""
        body = await self.body(scope, receive)
        if body is not None:
            await respond(send, body)

    async def do_early(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answers without a look at the body."""
        await respond(send, b"early", 413)

    async def do_hold(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Reads the body, then waits for the client to leave; sends once more after that."""
        if await self.body(scope, receive) is None:
            return
        message = await receive()
        assert message["type"] == "http.disconnect"
        self.note(lambda: self.left.append(scope["path"]))
        await respond(send, b"to nobody")
        assert (await receive())["type"] == "http.disconnect"

    async def do_ignore(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Does not ask for the body for a while."""
        await asyncio.sleep(0.6)
        await self.do_echo(scope, receive, send)

    async def do_late(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answers after a while, without a look at the body."""
        await asyncio.sleep(0.5)
        await respond(send, b"late")
        self.note(lambda: self.left.append(scope["path"]))

    async def do_stream(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Begins an answer at once, goes on once the client has sent its body, and ends."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        body = await self.body(scope, receive)
        if body is not None:
            await send({"type": "http.response.body", "body": body})

    async def do_slow(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answers after a moment."""
        await self.body(scope, receive)
        await asyncio.sleep(0.03)
        await respond(send, b"slow")

    async def do_flood(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Writes without end, until the client has left. The bytes taken from it are counted in `sent`."""
        await self.body(scope, receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            self.note(lambda: setattr(self, "sent", self.sent + len(CHUNK)))
            await asyncio.sleep(0)
        assert (await gone)["type"] == "http.disconnect"
        self.note(lambda: self.left.append(scope["path"]))

    async def do_raise(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise RuntimeError("the app broke")

    async def do_raise_late(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        raise RuntimeError("the app broke")

    async def do_return(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Returns without an answer."""

    async def do_headers(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Sends the header that the query names, `name=value` in Latin-1 with percent escapes."""
        name, _, value = scope["query_string"].replace(b"%0d", b"\r").replace(b"%0a", b"\n").partition(b"=")
        await send({"type": "http.response.start", "status": 200, "headers": [(name, value)]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def do_empty(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def do_parts(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"three"})


async def respond(send: Any, body: bytes, status: int = 200) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Served(AbstractContextManager["Served"]):
    """A probe behind a front of its own."""

    def __init__(self, **limits: Any) -> None:
        self.probe = Probe()
        self.threaded = ThreadedServer(
            self.probe,
            Server(**{"port": 0, "drain_s": 1, **limits}),
            lifespan="off",
            on_refusal=lambda refusal: self.probe.note(lambda: self.probe.refusals.append(refusal)),
        )

    def __enter__(self) -> "Served":
        self.threaded.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.threaded.__exit__(*error)

    def client(self, **options: Any) -> RawClient:
        return RawClient((self.threaded.host, self.threaded.port), **options)

    def wait_until_idle(self, timeout_s: float = 5.0) -> None:
        """Until no connection and no request is left."""
        state = self.threaded.server.server_state
        deadline = time.monotonic() + timeout_s
        while (state.connections or state.tasks) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert not state.connections
        assert not state.tasks
