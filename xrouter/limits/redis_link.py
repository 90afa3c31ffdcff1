"""Calls of one script in Redis: batched, each with a deadline, guarded by a breaker.

Calls that are made in one turn of the event loop, or while an earlier batch is under way, leave as one pipeline: 25 µs of
CPU a call instead of some 100 (performance.md), and an idle call never waits for company.

A pipeline has `deadline_s`, and what is queued behind one that fails, fails with it: a slow server is worse than none
(incident I-25). After `_FAILURES` pipelines in a row that failed the breaker opens: calls fail at once, and one probe a
second looks whether the server is well again, so no client's request is used for that. The probe writes, since a read-only
or full server answers reads. Other processes' probes may find it well a second later, and until then the server does not
know what they did meanwhile: `returning`.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Final

from redis.exceptions import NoScriptError, RedisError

from xrouter.limits.patience import Patience
from xrouter.limits.redis_client import Call, Client, Reply
from xrouter.limits.store import StoreDown

log = logging.getLogger("xrouter.limits")

DEADLINE_S: Final = 0.05
_CONNECT_S: Final = 0.5  # a probe may connect, with TLS; a call uses a connection that is there
_PROBE_S: Final = 1.0
_RETURN_S: Final = 2.0  # by then every process has found well what one has: a probe may take half a second itself
_FAILURES: Final = 5
_BATCH: Final = (
    64  # calls in one pipeline: some 3 ms of work, so the deadline is about the server and not about the load
)
_SCRIPT: Final = Path(__file__).with_name("limits.lua").read_text(encoding="utf-8")
_SHA: Final = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()  # what Redis calls a script by
_PROBE: Final[Call] = (["xrl:probe"], "1 0 probe\nf 1000000000 1000000 0 0 1")


@dataclass(slots=True)
class _Waiting:
    call: Call
    reply: asyncio.Future[Reply]


class RedisLink:
    """`on_recovery` is called, on the loop, each time the server is well again after the breaker was open."""

    def __init__(self, client: Client, on_recovery: Callable[[], None], *, deadline_s: float) -> None:
        self.degraded = False
        self.returning = False  # away, or well again for less than `_RETURN_S`
        self.errors = 0  # calls that failed or came too late
        self._client = client
        self._on_recovery = on_recovery
        self._deadline_s = deadline_s
        self._queue: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._look = asyncio.Event()
        self._failures = 0
        self._answered = False  # since the last look
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._returned: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Connect. A server that is away is no error: the breaker opens, and the probes go on."""
        await self._probe()
        self._tasks = [
            asyncio.create_task(self._flush_forever(), name="limits: flush"),
            asyncio.create_task(self._watch(), name="limits: watch"),
        ]

    async def aclose(self) -> None:
        """Send what is queued, then close."""
        self._closing = True
        self._wake.set()
        for task in self._tasks[:1]:
            await task
        for task in self._tasks[1:]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._returned is not None:
            self._returned.cancel()
        await self._client.aclose()

    def call(self, call: Call) -> asyncio.Future[Reply]:
        """The script's reply, or StoreDown: in the order of calls. `sent` of the error tells whether it may have run."""
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if self.degraded or self._closing:
            reply.set_exception(StoreDown("Redis is away", sent=False))
        else:
            self._queue.append(_Waiting(call, reply))
            self._wake.set()
        return reply

    async def _flush_forever(self) -> None:
        while not (self._closing and not self._queue):
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
                await self._flush(batch)

    async def _flush(self, batch: list[_Waiting]) -> None:
        try:
            async with Patience(self._deadline_s):
                replies = await self._execute([waiting.call for waiting in batch])
        except Exception as error:  # redis-py's, the network's, TLS's: whatever it is, the flusher goes on
            # What was queued meanwhile has waited for the same server as long: it fails with it, and not a deadline later.
            queued, self._queue = self._queue, []
            self.errors += len(batch) + len(queued)
            self._failed(error)
            for failed, sent in ((batch, True), (queued, False)):
                for waiting in failed:
                    if not waiting.reply.done():
                        waiting.reply.set_exception(_down(error, sent=sent))
            return
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if errors:
            self.errors += len(errors)
            self._failed(errors[-1])
        else:
            self._failures, self._answered = 0, True
        for waiting, reply in zip(batch, replies, strict=True):
            if waiting.reply.done():
                continue
            if isinstance(reply, Exception):
                waiting.reply.set_exception(_down(reply, sent=True))
            else:
                waiting.reply.set_result(reply)

    async def _execute(self, calls: list[Call]) -> list[Reply | Exception]:
        """The replies, errors among them. A server that has lost the script is given it and asked again."""
        replies = await self._client.run(_SHA, calls)
        lost = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if lost:
            await self._client.load(_SCRIPT)
            again = await self._client.run(_SHA, [calls[index] for index in lost])
            for index, reply in zip(lost, again, strict=True):
                replies[index] = reply
        return replies

    def _failed(self, error: BaseException) -> None:
        """A pipeline has failed. One alone may be a moment in which the machine had other things to do."""
        self._failures += 1
        if self._failures >= _FAILURES:
            self._open(error)

    def _open(self, error: BaseException) -> None:
        if not self.degraded:
            self.degraded = self.returning = True
            if self._returned is not None:
                self._returned.cancel()
            self._look.set()
            log.warning("limits: Redis is away (%s); on_store_failure holds until it is back", _reason(error))

    async def _watch(self) -> None:
        """Probe once a second while the breaker is open, or while nothing else asks: an idle gateway notices too."""
        while True:
            try:
                async with asyncio.timeout(_PROBE_S):
                    await self._look.wait()
            except TimeoutError:
                pass
            else:
                self._look.clear()
            if self.degraded or not self._answered:
                await self._probe()
            self._answered = False

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._client.ping()
            async with Patience(self._deadline_s):
                (reply,) = await self._execute([_PROBE])
            if isinstance(reply, Exception):
                raise reply
        except Exception as error:  # as above: the probes go on, or nothing would ever find the server well again
            self._open(error)
            self._look.clear()
            await self._drop_connections()
            return
        self._failures = 0
        if self.degraded:
            self.degraded = False
            self._returned = asyncio.get_running_loop().call_later(_RETURN_S, self._has_returned)
            log.warning("limits: Redis is back")
            self._on_recovery()

    def _has_returned(self) -> None:
        self.returning = False

    async def _drop_connections(self) -> None:
        """After a failover they may lead to a server that is now a replica. The client connects anew when it is used."""
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._client.aclose()
        except (TimeoutError, RedisError, OSError) as error:
            log.debug("limits: closing connections to Redis: %s", _reason(error))


def _down(error: BaseException, *, sent: bool) -> StoreDown:
    return StoreDown(f"Redis: {_reason(error)}", sent=sent)


def _reason(error: BaseException) -> str:
    """For the operator: redis-py's messages name the server's place, and never the password."""
    return "it does not answer in time" if isinstance(error, TimeoutError) else str(error)[:200]
