"""What the tests of the GigaChat provider share: a provider, calls, and bodies as GigaChat writes them."""

import base64
import json
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
from kit.runs import alone

from xrouter.config.settings import ModelSettings, RouteSettings
from xrouter.context import Call, Target
from xrouter.events import Event, Finish, ReasoningText, Text, ToolCallPart
from xrouter.providers.base import Purpose, Translator
from xrouter.providers.gigachat import GigaChat
from xrouter.secret import Secret
from xrouter.upstream.base import Headers, UpstreamAnswer, UpstreamRequest
from xrouter.wire import ChatRequest, CompletionRequest, EmbeddingRequest

CLIENT_ID = "0b0e1a8c-9f7e-4f0c-8b0a-canary-id"
CLIENT_SECRET = "c1d2e3f4-canary-secret-of-the-tests"
CREDENTIALS = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
BASE_URL = "https://giga.test/v1"
AUTH_URL = "https://auth.test:9443/api/v2/oauth"
STATE_ID = "77d3fb14-457a-46ba-937e-8d856156d003"
REQUESTS: dict[str, type[Any]] = {"chat": ChatRequest, "completions": CompletionRequest, "embeddings": EmbeddingRequest}
EVENT_STREAM: Headers = ((b"content-type", b"text/event-stream; charset=utf-8"),)
JSON: Headers = ((b"content-type", b"application/json"),)


class HandWorld:
    """A world whose clocks move only when told to."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.wall = now
        self.clock = 100.0
        self._random = random.Random(1)

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.clock

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("sans-IO code does not sleep")

    def random(self) -> float:
        return self._random.random()

    def random_bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)


def provider(world: HandWorld | None = None, **config: Any) -> GigaChat:
    if not config.keys() & {"access_token", "user", "tls"}:
        config.setdefault("credentials", Secret(CREDENTIALS))
    config = {"provider": "gigachat", "base_url": BASE_URL, "auth_url": AUTH_URL, **config}
    return GigaChat(GigaChat.Config(**config), world or HandWorld())


def settings(**fields: Any) -> ModelSettings:
    return ModelSettings(routes=(RouteSettings(upstream="giga", model="GigaChat-2"),), price="free", **fields)


def call(kind: str = "chat", **body: Any) -> Call:
    if kind == "chat":
        body.setdefault("messages", [{"role": "user", "content": "Столица Перу?"}])
    return Call(kind, msgspec.convert(body, REQUESTS[kind]), body)  # type: ignore[arg-type]


def translator(
    *,
    of: GigaChat | None = None,
    model: ModelSettings | None = None,
    kind: str = "chat",
    target: str = "GigaChat-2",
    conversation: str = "conversation",
    request_id: str = "4d0c1f0e-8f5c-4f5e-9f59-0a3c8a8a5d11",
    **body: Any,
) -> Translator:
    purpose = Purpose("gen-1", request_id, conversation, model or settings())
    return (of or provider()).translator(call(kind, **body), Target("giga", target, "gigachat/lite"), purpose)


def exchanged(translator: Translator, *answers: UpstreamAnswer) -> list[UpstreamRequest]:
    """Every request of an exchange, of which all but the last are given `answers`."""
    exchange = translator.exchange()
    requests: list[UpstreamRequest] = []
    replies = iter(answers)
    try:
        requests.append(next(exchange))
        while True:
            requests.append(exchange.send(next(replies)))
    except StopIteration as end:
        if end.value is None:
            raise AssertionError("the exchange yielded more requests than there are answers") from None
        return [*requests, end.value]


def sent(translator: Translator) -> UpstreamRequest:
    """The one request of an exchange that has no others."""
    (request,) = exchanged(translator)
    return request


def sent_body(**body: Any) -> dict[str, Any]:
    return json.loads(sent(translator(**body)).body)


def sent_messages(*messages: dict[str, Any], **body: Any) -> list[dict[str, Any]]:
    return sent_body(messages=list(messages), **body)["messages"]


def header(request: UpstreamRequest, name: bytes) -> bytes | None:
    return next((value for key, value in request.headers if key == name), None)


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def answer(status: int, body: Any = b"", headers: Headers = ()) -> UpstreamAnswer:
    return UpstreamAnswer(status, headers, body if isinstance(body, bytes) else dumps(body))


def usage(prompt: int = 17, completion: int = 42, precached: int = 2) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "precached_prompt_tokens": precached,
    }


def whole(message: dict[str, Any], finish: str | None = "stop", **fields: Any) -> bytes:
    """A non-streamed answer, as the sheet's section 4 shows it: no `id`."""
    return dumps(
        {
            "choices": [{"message": {"role": "assistant", **message}, "index": 0, "finish_reason": finish}],
            "created": 1790000001,
            "model": "GigaChat-2-Pro:2.0.28.2",
            "object": "chat.completion",
            "usage": usage(),
            **fields,
        }
    )


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"delta": delta, "index": 0}
    if finish:
        choice["finish_reason"] = finish
    return {
        "choices": [choice],
        "created": 1790000002,
        "model": "GigaChat:2.0.28.2",
        "object": "chat.completion",
        **fields,
    }


def stream(*chunks: dict[str, Any], done: bool = True, newline: bytes = b"\n") -> bytes:
    frames = [b"data: " + dumps(data) for data in chunks] + ([b"data: [DONE]"] if done else [])
    return b"".join(frame + newline * 2 for frame in frames)


def function_call(arguments: Any, name: str = "get_weather") -> dict[str, Any]:
    return {
        "content": "",
        "role": "assistant",
        "function_call": {"name": name, "arguments": arguments},
        "functions_state_id": STATE_ID,
    }


def read(translator: Translator, data: bytes, cuts: Iterable[int] = ()) -> list[Event]:
    """Feed `data` in the pieces that `cuts` makes, to the end, to a translator whose exchange is over."""
    edges = [0, *sorted(cuts), len(data)]
    events: list[Event] = []
    for start, end in pairwise(edges):
        events += translator.feed(data[start:end])
    return alone([*events, *translator.finish()])


def answered(data: bytes, cuts: Iterable[int] = (), **body: Any) -> list[Event]:
    """The events of `data`, the answer to a call of `body`."""
    asked = translator(**body)
    sent(asked)
    asked.started(200, EVENT_STREAM if body.get("stream") else JSON)
    return read(asked, data, cuts)


def said(events: Sequence[Event]) -> str:
    return "".join(event.content for event in alone(events) if isinstance(event, Text))


def thought(events: Sequence[Event]) -> str:
    return "".join(event.content for event in events if isinstance(event, ReasoningText))


def calls(events: Sequence[Event]) -> list[ToolCallPart]:
    return [event for event in events if isinstance(event, ToolCallPart)]


def finish(events: Sequence[Event]) -> Finish:
    """The one end, which is the last event."""
    assert [event for event in events if isinstance(event, Finish)] == [events[-1]]
    assert isinstance(events[-1], Finish)
    return events[-1]


def tool(name: str = "get_weather", **parameters: Any) -> dict[str, Any]:
    schema = parameters or {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": "Погода", "parameters": schema}}


def tool_call(call_id: str, name: str = "get_weather", arguments: str = '{"city":"Омск"}') -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def png(size: int = 100) -> bytes:
    return b"\x89PNG\r\n\x1a\n".ljust(size, b"\0")


def image(data: bytes | None = None, kind: str = "image/png") -> dict[str, Any]:
    encoded = base64.b64encode(png() if data is None else data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encoded}"}}
