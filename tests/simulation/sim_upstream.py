"""Simulated upstreams: what a provider can do to a call, and its own record of what it has done.

An engine (xrouter/upstream/base.py) in the place of the one with sockets. What the gateway has been handed, byte by byte, is
in each call's record: from that the witness knows what it may charge.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from simulation.sim_settings import LONGEST

from xrouter.config.settings import UpstreamSettings
from xrouter.errors import UpstreamProtocolError, UpstreamTimeout, UpstreamUnreachable
from xrouter.upstream.base import Headers, PoolStats, UpstreamRequest
from xrouter.wire import decode_json, encode_json

_WORDS: Final = ("Лима ", "столица ", "of ", "Peru, ", "on the coast. ", "Ещё ", "слово ", "42 ", "и так далее, ")
_KINDS: Final = {
    "good": 60, "no usage": 8, "garbage usage": 4, "usage twice": 5, "cut": 8, "reset": 4, "refused": 7, "unreachable": 3,
    "silent": 1, "error inside": 3, "no done": 3, "done twice": 3, "cached": 6, "empty": 1,
}  # fmt: skip
_SIZES: Final = ((30,), (60, 7), (1, 50, 90), (100,), (1000, 5000))  # bytes of the pieces of a body
_FIRST_PAUSES_S: Final = (0.001, 0.05, 0.3, 2.0)
_GARBAGE: Final[tuple[Any, ...]] = (
    {"prompt_tokens": -5, "completion_tokens": 3},
    {"prompt_tokens": 18446744073686646784, "completion_tokens": 1},
    {"prompt_tokens": "seven", "completion_tokens": 1},
    {"prompt_tokens": 3.5, "completion_tokens": 1},
    "none",
)


@dataclass(frozen=True)
class Reported:
    """A usage that can be true, and where in the body its event ends."""

    ends: int
    prompt: int
    answer: int
    cached: int
    reasoning: int


@dataclass
class Call:
    """One call as the upstream knows it. `handed` bytes of the body were given to the gateway."""

    request: str
    upstream: str
    kind: str
    streamed: bool
    body: bytes = b""
    texts: list[tuple[int, str]] = field(default_factory=list)  # where the event of a text ends in the body
    reports: list[Reported] = field(default_factory=list)
    finish_ends: int | None = None  # where the answer is known to be finished
    handed: int = 0
    ended: bool = False  # the end of the body was handed over as well

    @property
    def known(self) -> int:
        """How far the gateway can know the body. Where it has ended, an event's closing line feeds are not missed."""
        return self.handed + (2 if self.streamed and self.ended else 0)

    def generated(self) -> str:
        """The text that the gateway can know."""
        return "".join(text for ends, text in self.texts if ends <= self.known)

    def reported(self) -> Reported | None:
        return next((report for report in reversed(self.reports) if report.ends <= self.known), None)

    def finished(self) -> bool:
        return self.finish_ends is not None and self.finish_ends <= self.known


class Upstreams:
    """Every upstream, and all calls that came to them. `noted` is told of each event of a request."""

    def __init__(self, chance: random.Random, noted: Callable[[str, str], None]) -> None:
        self.chance = chance
        self.noted = noted
        self.calls: dict[str, list[Call]] = {}
        self.calm = False  # nothing fails any more

    def engine(self, settings: UpstreamSettings) -> "SimulatedEngine":
        """In the place of `xrouter.upstream.caller.build_engine`."""
        return SimulatedEngine(self, settings)


class SimulatedEngine:
    def __init__(self, upstreams: Upstreams, settings: UpstreamSettings) -> None:
        self._upstreams = upstreams
        self._name = "one" if "one" in settings.base_url else "two"
        self._first_byte_s = settings.timeouts.first_byte_s

    async def send(self, request: UpstreamRequest) -> "SimulatedResponse":
        upstreams, chance = self._upstreams, self._upstreams.chance
        asked = decode_json(request.body)
        name = asked["messages"][0]["content"].split()[0]
        kind = "good" if upstreams.calm else chance.choices(list(_KINDS), list(_KINDS.values()))[0]
        call = Call(name, self._name, kind, bool(asked.get("stream")))
        upstreams.calls.setdefault(name, []).append(call)
        upstreams.noted("upstream call", name)
        await asyncio.sleep(chance.choice(_FIRST_PAUSES_S))
        if kind == "unreachable":
            raise UpstreamUnreachable(detail="simulated")
        if kind == "silent":
            await asyncio.sleep(self._first_byte_s)
            raise UpstreamTimeout(detail="simulated")
        if kind == "refused":
            return SimulatedResponse(upstreams, call, *_refusal(chance))
        write_answer(call, asked, chance)
        content_type = b"text/event-stream" if call.streamed else b"application/json"
        return SimulatedResponse(upstreams, call, 200, ((b"content-type", content_type),))

    async def aclose(self) -> None:
        """It has no connections."""

    def stats(self) -> PoolStats:
        return PoolStats()


class SimulatedResponse:
    """The body in pieces, cut anywhere, with pauses between them."""

    def __init__(self, upstreams: Upstreams, call: Call, status: int, headers: Headers, refusal: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self._upstreams = upstreams
        self._call = call
        self._body = call.body or refusal
        self._at = 0
        self._end = len(self._body)
        if call.kind in ("cut", "reset"):
            self._end = upstreams.chance.randrange(self._end + 1)
        self._slow = upstreams.chance.random() < 0.1
        self._sizes = upstreams.chance.choice(_SIZES)
        self._closed = False

    def __aiter__(self) -> "SimulatedResponse":
        return self

    async def __anext__(self) -> bytes:
        chance, call = self._upstreams.chance, self._call
        pause_s = chance.choice((0.0, 0.01, 0.1, 1.0)) * (8 if self._slow else 1)
        if pause_s:
            await asyncio.sleep(pause_s)
        if self._closed:
            raise AssertionError("an answer is read after it was closed")
        if self._at >= self._end:
            if call.kind == "reset":
                raise UpstreamProtocolError("The upstream's answer was cut off", detail="simulated")
            call.ended = True
            raise StopAsyncIteration
        size = chance.choice(self._sizes)
        piece = self._body[self._at : min(self._at + size, self._end)]
        self._at += len(piece)
        call.handed = self._at
        self._upstreams.noted("upstream piece", call.request)
        return piece

    def arrived(self) -> None:
        """Each piece is waited for."""

    def finish(self) -> None:
        """There is no connection to keep."""

    async def aclose(self) -> None:
        self._closed = True


def _refusal(chance: random.Random) -> tuple[int, Headers, bytes]:
    status = chance.choice((400, 401, 429, 429, 500, 503))
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)
    if status == 429:
        headers += ((b"retry-after", b"2"),)
    return status, headers, encode_json({"error": {"message": "no", "code": "no"}})


def write_answer(call: Call, asked: dict[str, Any], chance: random.Random) -> None:
    """The whole body of a good answer, and of what is wrong with it."""
    most = asked.get("max_tokens") or asked.get("max_completion_tokens") or LONGEST
    length = min(most, chance.choice((1, 3, 5, 10, 20, 60, LONGEST)))
    if call.kind == "empty":
        length = 0
    words = [chance.choice(_WORDS) for _ in range(length)]
    prompt = chance.choice((15, 25, 40, 200))  # of its own opinion, which may be far from the gateway's
    report = Reported(0, prompt, length, 0, 0)
    if call.kind == "cached":
        report = Reported(0, prompt, length, chance.randrange(prompt + 1), chance.randrange(length + 1))
    (_write_stream if call.streamed else _write_whole)(call, words, report, chance)


def _write_stream(call: Call, words: list[str], report: Reported, chance: random.Random) -> None:
    events: list[tuple[bytes, str, str]] = []  # the event, its text, what it is
    step = chance.choice((1, 1, 2, 5)) if len(words) < 30 else chance.choice((5, 20, 50))
    for start in range(0, len(words), step):
        text = "".join(words[start : start + step])
        events.append((_chunk(choices=[_choice({"content": text})]), text, "text"))
    if call.kind == "error inside":
        place = chance.randrange(len(events) + 1)
        events[place:] = [(_chunk(error={"message": "no", "code": 500}), "", "error")]
    else:
        events.append((_chunk(choices=[_choice({}, "stop")]), "", "finish"))
        if call.kind == "garbage usage":
            events.append((_chunk(choices=[], usage=chance.choice(_GARBAGE)), "", ""))
        elif call.kind != "no usage":
            if call.kind == "usage twice":
                events.insert(-1, (_chunk(choices=[], usage=_usage(report, answer=0)), "", "first usage"))
            events.append((_chunk(choices=[], usage=_usage(report)), "", "usage"))
        if call.kind != "no done":
            events.append((b"data: [DONE]\n\n", "", "done"))
        if call.kind == "done twice":
            events += [(_chunk(choices=[_choice({"content": "late"})]), "", ""), (b"data: [DONE]\n\n", "", "")]
    call.body = b"".join(data for data, _, _ in events)
    ends = accumulate(len(data) for data, _, _ in events)
    for end, (_, text, what) in zip(ends, events, strict=True):
        if text:
            call.texts.append((end, text))
        match what:
            case "finish":
                call.finish_ends = end
            case "usage":
                call.reports.append(Reported(end, report.prompt, report.answer, report.cached, report.reasoning))
            case "first usage":
                call.reports.append(Reported(end, report.prompt, 0, 0, 0))


def _write_whole(call: Call, words: list[str], report: Reported, chance: random.Random) -> None:
    text = "".join(words)
    body: dict[str, Any] = {"id": "u", "object": "chat.completion", "model": "m"}
    if call.kind == "error inside":
        body["error"] = {"message": "no", "code": 500}
    body["choices"] = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    if call.kind == "garbage usage":
        body["usage"] = chance.choice(_GARBAGE)
    elif call.kind != "no usage":
        body["usage"] = _usage(report)
    call.body = encode_json(body)
    end = len(call.body)
    if call.kind != "error inside":
        call.texts.append((end, text))
        call.finish_ends = end
        if call.kind not in ("garbage usage", "no usage"):
            call.reports.append(Reported(end, report.prompt, report.answer, report.cached, report.reasoning))


def _chunk(**fields: Any) -> bytes:
    return b"data: " + encode_json({"id": "u", "model": "m", **fields}) + b"\n\n"


def _choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _usage(report: Reported, answer: int | None = None) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": report.prompt,
        "completion_tokens": report.answer if answer is None else answer,
    }
    if (report.cached or report.reasoning) and answer is None:
        usage["prompt_tokens_details"] = {"cached_tokens": report.cached}
        usage["completion_tokens_details"] = {"reasoning_tokens": report.reasoning}
    return usage
