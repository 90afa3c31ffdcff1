"""Writing an answer, with the faults that concern its bytes rather than its meaning."""

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence

from starlette.types import Receive, Scope, Send

from xrouter.sandbox.reply import Reply
from xrouter.sandbox.scenario import NO_SCENARIO, Scenario
from xrouter.sandbox.state import SandboxState

CONNECTION = "xrouter.sandbox.connection"
"""The ASGI extension that ends a connection in the middle of an answer; `protocol.SandboxProtocol` provides it."""

_NATURAL_FIRST_S = 0.25
_NATURAL_PAUSE_S = 0.03
_GARBAGE = b"\x1f\x8b\x08\x00 this is not what gzip looks like"
_INSIDE_CHARACTER = re.compile(rb"(?<=[\xc2-\xf4])|(?<=[\xe0-\xf4][\x80-\xbf])")
_INSIDE_FIELD = re.compile(rb"(?<=da)(?=ta: )")


class _Gone(Exception):
    """The client has left, or the scenario has ended the connection."""


class Delivery:
    """One answer on its way. `write` returns when it has been written or the connection has ended."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, state: SandboxState, provider: str, scenario: Scenario
    ) -> None:
        self._connection = scope.get("extensions", {}).get(CONNECTION)
        self._receive = receive
        self._send = send
        self._state = state
        self._provider = provider
        self._scenario = scenario
        self._left: asyncio.Task[None] | None = None

    async def write(self, reply: Reply, failure_frame: Callable[[], bytes]) -> None:
        scenario, natural = self._scenario, self._state.config.natural
        try:
            if scenario.latency:
                await self._pause(scenario.latency)
            elif natural and reply.status < 400:
                await self._pause(_NATURAL_FIRST_S)
            if scenario.reset == 0:
                await self._end(reset=True)
            frames = self._frames(reply, failure_frame)
            if reply.streamed:
                self._watch()
                await self._start(reply, self._headers(reply))
                await self._body(frames, scenario.drip or (_NATURAL_PAUSE_S if natural else 0.0))
            else:
                body = b"".join(frames)
                await self._start(reply, [*self._headers(reply), (b"content-length", str(len(body)).encode())])
                await self._body([body], 0.0)
        except _Gone:
            pass
        finally:
            if self._left is not None:
                self._left.cancel()

    # The bytes

    def _frames(self, reply: Reply, failure_frame: Callable[[], bytes]) -> list[bytes]:
        """The frames as the scenario wants them."""
        scenario = self._scenario
        if scenario.empty:
            return []
        if scenario.gzip:
            return [_GARBAGE]
        frames = list(reply.frames)
        if scenario.stream_error is not None and reply.streamed:
            frames = [*frames[: scenario.stream_error], failure_frame()]
        if scenario.crlf:
            frames = [frame.replace(b"\n", b"\r\n") for frame in frames]
        if scenario.no_newline and frames:
            frames[-1] = frames[-1].rstrip(b"\r\n")
        return frames

    def _headers(self, reply: Reply) -> list[tuple[bytes, bytes]]:
        content_type = self._scenario.content_type or reply.content_type
        headers = [(b"content-type", content_type.encode("latin-1"))]
        headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
        if self._scenario.gzip:
            headers.append((b"content-encoding", b"gzip"))
        return headers

    # Writing

    async def _start(self, reply: Reply, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})

    async def _body(self, frames: Sequence[bytes], pause_s: float) -> None:
        scenario = self._scenario
        if scenario is NO_SCENARIO and len(frames) == 1:  # most answers: no reason to write them in pieces
            await self._send({"type": "http.response.body", "body": frames[0], "more_body": False})
            return
        left = scenario.cut_bytes
        for written, frame in enumerate(frames):
            await self._end_if_due(written)
            if pause_s and written:
                await self._pause(pause_s)
            if left is not None:
                frame, left = frame[:left], left - len(frame)
            await self._piecewise(frame)
            if left is not None and left <= 0:
                await self._end(reset=False)
            if self._left is not None and self._left.done():
                self._state.aborted[self._provider] += 1
                raise _Gone
        await self._end_if_due(len(frames))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _end_if_due(self, written: int) -> None:
        if self._scenario.cut == written:
            await self._end(reset=False)
        if self._scenario.reset == written:
            await self._end(reset=True)

    async def _piecewise(self, frame: bytes) -> None:
        how = self._scenario.split
        for piece in pieces_of(frame, how) if how else (frame,):
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            if how:
                await asyncio.sleep(0)  # a write of its own for each piece

    # The connection

    def _watch(self) -> None:
        if self._left is None:
            self._left = asyncio.ensure_future(self._wait_until_left())

    async def _wait_until_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _pause(self, seconds: float) -> None:
        self._watch()
        assert self._left is not None
        done, _ = await asyncio.wait((self._left,), timeout=seconds)
        if done:
            self._state.aborted[self._provider] += 1
            raise _Gone

    async def _end(self, *, reset: bool) -> None:
        """End the connection now, by FIN or by RST, and wait until it is gone."""
        if self._connection is None:
            raise RuntimeError(
                "this server cannot end a connection on demand; run the sandbox by xrouter.sandbox.serving"
            )
        self._watch()
        assert self._left is not None
        if reset:
            self._connection.reset()
        else:
            self._connection.close()
        await self._left
        raise _Gone


def pieces_of(data: bytes, how: str) -> Iterator[bytes]:
    """`data` cut where it hurts: after each byte, inside each character of several bytes, or inside each `data:`."""
    if how == "byte":
        yield from (data[at : at + 1] for at in range(len(data)))
        return
    pattern = _INSIDE_CHARACTER if how == "utf8" else _INSIDE_FIELD
    start = 0
    for cut in pattern.finditer(data):
        if start < cut.start() < len(data):
            yield data[start : cut.start()]
            start = cut.start()
    yield data[start:]
