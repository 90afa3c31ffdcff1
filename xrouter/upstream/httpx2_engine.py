"""The known engine: httpx2, for upstreams behind an HTTP proxy or with HTTP/2, and the yardstick that `http1` is held to.

Its transport is used without the client around it: no redirects, no cookies kept, no `.netrc`, no proxy from the
environment, no decompression. Deadlines, the checks of what came, and the mapping of errors are done here, so that an
upstream's misbehaviour looks the same whichever engine meets it. What this engine cannot do as `http1` does:
- a large request body must be written within `first_byte_s`: httpx reports no progress of a write;
- h11, which parses for it, accepts some malformed answers (tests/upstream/test_conformance.py names them);
- how many connections are idle is not known.
"""

import asyncio
import importlib.util
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, Self

import httpx2

from xrouter.config.settings import Timeouts
from xrouter.errors import ShuttingDown, UpstreamProtocolError, UpstreamTimeout, UpstreamUnreachable, XRouterError
from xrouter.upstream.base import Headers, Limits, PoolStats, UpstreamRequest
from xrouter.upstream.connection import DRAIN_BYTES, DRAIN_S
from xrouter.upstream.http1 import STALE_S
from xrouter.upstream.request_head import default_headers, encode_head
from xrouter.upstream.target import Origin, parse_target

_HTTP2 = importlib.util.find_spec("h2") is not None  # offered in the TLS handshake where the package is installed


class Httpx2Engine:
    """An `Engine`."""

    def __init__(
        self,
        *,
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        keep_alive_s: float = 30.0,
        limits: Limits | None = None,
        proxy: str | None = None,
    ) -> None:
        """`proxy`: an http://, https:// or socks5:// URL, which may hold the proxy's own user name and password."""
        self._timeouts = timeouts or Timeouts()
        self._limits = limits or Limits()
        self._tls = tls
        self._transport = httpx2.AsyncHTTPTransport(
            # Without settings nothing is trusted; https is refused below before it comes to that.
            verify=tls if tls is not None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            trust_env=False,
            http2=_HTTP2,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=keep_alive_s),
            proxy=proxy,
        )
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._active = 0
        self._opened = 0
        self._reused = 0

    async def send(self, request: UpstreamRequest) -> "Httpx2Response":
        if self._closed:
            raise ShuttingDown
        encode_head(request)  # for its checks: both engines refuse the same requests
        origin = parse_target(request.url).origin
        if origin.scheme == "https" and self._tls is None:
            raise ValueError("an https URL for an engine without TLS settings")
        total_at = asyncio.get_running_loop().time() + self._timeouts.total_s
        progress = _Progress(self._timeouts, total_at)
        try:
            return await self._exchange(request, origin, progress)
        except UpstreamProtocolError:
            if not (progress.hung_up and self._may_repeat(progress, request)):
                raise
        return await self._exchange(request, origin, _Progress(self._timeouts, total_at))

    async def _exchange(self, request: UpstreamRequest, origin: Origin, progress: "_Progress") -> "Httpx2Response":
        outgoing = httpx2.Request(
            request.method,
            request.url,
            headers=[*default_headers(request.headers), *request.headers],
            content=request.body or None,
            extensions={"trace": progress.trace, "timeout": {}},
        )
        try:
            async with progress.limit():
                response = await self._transport.handle_async_request(outgoing)
        except TimeoutError as error:
            raise UpstreamTimeout(detail=f"{origin}: {progress.limit_name} has passed") from error
        except (httpx2.TransportError, OSError) as error:
            raise progress.mapped(error, origin) from error
        finally:
            if (stream := progress.left_open()) is not None:
                await asyncio.shield(self.own(stream.aclose()))
        if progress.connected:
            self._opened += 1
        else:
            self._reused += 1
        answer = Httpx2Response(self, response, origin, progress.total_at)
        try:
            answer.check(response, self._limits)
        except XRouterError:
            await answer.aclose()
            raise
        return answer

    def _may_repeat(self, progress: "_Progress", request: UpstreamRequest) -> bool:
        """As in `http1`: a kept connection that the upstream closed while the request was on its way."""
        if progress.connected or progress.sent_at is None or self._closed:
            return False
        return request.idempotent or asyncio.get_running_loop().time() - progress.sent_at < STALE_S

    # For the responses.

    @property
    def idle_s(self) -> float:
        return self._timeouts.idle_s

    def opened(self) -> None:
        self._active += 1

    def done(self) -> None:
        self._active -= 1

    def own(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run `work` to its end whatever becomes of the caller."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._transport.aclose()

    def stats(self) -> PoolStats:
        return PoolStats(active=self._active, opened=self._opened, reused=self._reused)


class _Progress:
    """How far one request has come, and the limit that holds there, moved on by what httpcore2 reports."""

    def __init__(self, timeouts: Timeouts, total_at: float) -> None:
        self.total_at = total_at
        self.connected = False  # whether a connection was made for this request
        self.sent_at: float | None = None
        self.hung_up = False
        self._timeouts = timeouts
        self._now = asyncio.get_running_loop().time
        self._limit = "connect_s"
        self._stream: Any = None  # the TCP stream of a connection made for this request
        self._handshaking = False
        self._timeout = asyncio.timeout_at(min(self._now() + timeouts.connect_s, total_at))

    def limit(self) -> asyncio.Timeout:
        return self._timeout

    @property
    def limit_name(self) -> str:
        return "total_s" if self._timeout.when() == self.total_at else self._limit

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """Called by httpcore2 at each step of a request, e.g. `connection.connect_tcp.started`."""
        step = event.partition(".")[2]
        if step == "connect_tcp.started":
            self.connected = True
        elif step == "connect_tcp.complete":
            self._stream = info["return_value"]
        elif step in ("start_tls.started", "start_tls.complete"):
            self._handshaking = step == "start_tls.started"
        elif step in ("send_request_headers.started", "send_request_body.complete"):
            self._limit = "first_byte_s"
            self.sent_at = self._now()
            self._timeout.reschedule(min(self.sent_at + self._timeouts.first_byte_s, self.total_at))

    def left_open(self) -> Any:
        """The stream whose handshake was broken off: httpcore2 2.16 does not close it if the cause is a cancellation."""
        return self._stream if self._handshaking else None

    def mapped(self, error: Exception, origin: Origin) -> XRouterError:
        """The error in our terms. Before the head was sent the upstream cannot have seen the request."""
        if self.sent_at is None:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                return UpstreamUnreachable("The upstream's certificate is not trusted", detail=f"{origin}: {error}")
            return UpstreamUnreachable(detail=f"{origin}: {error!r}")
        # A disconnect is a RemoteProtocolError like every breach of the protocol; only its text tells them apart.
        self.hung_up = isinstance(error, httpx2.NetworkError) or "disconnected" in str(error)
        return _mapped_after_sending(error, origin)


def _mapped_after_sending(error: Exception, origin: Origin) -> UpstreamProtocolError:
    if isinstance(error, httpx2.NetworkError) or "disconnected" in str(error) or "closed connection" in str(error):
        return UpstreamProtocolError(
            "The upstream closed the connection before its answer was whole", detail=f"{origin}: {error!r}"
        )
    return UpstreamProtocolError(detail=f"{origin}: {error}")


class Httpx2Response:
    """An `UpstreamResponse`."""

    def __init__(self, engine: Httpx2Engine, response: httpx2.Response, origin: Origin, total_at: float) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        self.status = response.status_code
        self.headers: Headers = tuple((name.lower(), value) for name, value in response.headers.raw)
        self._engine = engine
        self._origin = origin
        self._total_at = total_at
        self._stream = response.stream
        self._extensions = response.extensions
        self._pieces: AsyncIterator[bytes] = response.stream.__aiter__()
        self._closing: asyncio.Task[None] | None = None
        engine.opened()

    def check(self, response: httpx2.Response, limits: Limits) -> None:
        """What h11 lets through and must not be believed. Raises UpstreamProtocolError."""
        names = [name for name, _ in self.headers]
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        encodings = {value.lower() for name, value in self.headers if name == b"content-encoding"}
        version = response.extensions["http_version"]
        problem = None
        if version not in (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2"):
            problem = "the answer is of another version of HTTP"
        elif not 200 <= self.status <= 599:
            problem = f"unexpected status {self.status}"
        elif len(names) > limits.headers or sum(len(n) + len(v) + 4 for n, v in self.headers) > limits.head_bytes:
            problem = "the answer has too many or too long headers"
        elif codings and (codings != [b"chunked"] or b"content-length" in names or version == b"HTTP/1.0"):
            problem = "conflicting framing"
        elif encodings - {b"identity", b""}:
            problem = "a compressed answer, which was not asked for"
        if problem is not None:
            raise UpstreamProtocolError(detail=f"{self._origin}: {problem}")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._closing is not None:
            raise StopAsyncIteration
        idle_at = asyncio.get_running_loop().time() + self._engine.idle_s
        try:
            async with asyncio.timeout_at(min(idle_at, self._total_at)):
                while not (piece := await anext(self._pieces)):
                    pass  # an empty DATA frame of HTTP/2, which is not the end that an empty piece would say
                return piece
        except TimeoutError as error:
            await self.aclose()
            limit = "idle_s" if idle_at < self._total_at else "total_s"
            raise UpstreamTimeout(detail=f"{self._origin}: {limit} has passed") from error
        except (httpx2.TransportError, OSError) as error:
            await self.aclose()
            raise _mapped_after_sending(error, self._origin) from error
        except BaseException:  # the regular end, StopAsyncIteration, among them
            await self.aclose()
            raise

    def arrived(self) -> None:
        """httpx2 cannot say what has come."""

    def finish(self) -> None:
        if self._closing is None:
            self._closing = self._engine.own(self._drain())

    async def aclose(self) -> None:
        if self._closing is None:
            self._closing = self._engine.own(self._close())
            await asyncio.shield(self._closing)

    async def _drain(self) -> None:
        size = 0
        try:
            async with asyncio.timeout(DRAIN_S):
                async for piece in self._pieces:
                    size += len(piece)
                    if size > DRAIN_BYTES:
                        break
        except (TimeoutError, httpx2.TransportError, OSError):
            return  # its end did not come as expected: the connection is closed below, and nobody waits for the rest
        finally:
            await self._close()

    async def _close(self) -> None:
        """Give the connection back if the answer was read to its end and nothing came after it, else close it."""
        self._engine.done()
        if self._extensions["http_version"] != b"HTTP/2" and _has_surplus(self._stream):
            await self._extensions["network_stream"].aclose()
        if isinstance(self._pieces, AsyncGenerator):
            await self._pieces.aclose()
        await self._stream.aclose()


def _has_surplus(stream: httpx2.AsyncByteStream) -> bool:
    """Whether bytes came after the answer's end.

    httpcore2 2.16 leaves them in its parser, where the next request on the connection, another client's, would take them for
    its answer. There is no public way to see them. Where the private one has gone, every connection counts as tainted and
    is closed: slower, never wrong. `test_kept_connection_is_used_again` fails then.
    """
    try:
        trailing, _ = stream._httpcore_stream._stream._connection._h11_state.trailing_data  # type: ignore[attr-defined]
    except AttributeError:
        return True
    return bool(trailing)
