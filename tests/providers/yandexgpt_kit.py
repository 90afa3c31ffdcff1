"""What the tests of the YandexGPT provider share: a provider, calls, and bodies as Yandex writes them."""

import json
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from xrouter.config.settings import ModelSettings, RouteSettings
from xrouter.context import Call, Target
from xrouter.events import Event, Finish, Text, ToolCallPart
from xrouter.providers.base import Purpose, Translator
from xrouter.providers.yandexgpt import YandexGPT
from xrouter.secret import Secret
from xrouter.upstream.base import Headers, UpstreamAnswer, UpstreamRequest
from xrouter.wire import ChatRequest, CompletionRequest, EmbeddingRequest

FOLDER = "b1gtestfolder0000001"
API_KEY = "AQVN-canary-of-the-tests"
BASE_URL = "https://yandex.test"
FINAL = "ALTERNATIVE_STATUS_FINAL"
PARTIAL = "ALTERNATIVE_STATUS_PARTIAL"
REQUESTS: dict[str, type[Any]] = {"chat": ChatRequest, "completions": CompletionRequest, "embeddings": EmbeddingRequest}


class StillWorld:
    """A world whose clocks move only when told to, or when somebody sleeps."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.clock = now
        self._random = random.Random(1)

    def now(self) -> float:
        return self.clock

    def monotonic(self) -> float:
        return self.clock

    async def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def random(self) -> float:
        return self._random.random()

    def random_bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)


def provider(world: StillWorld | None = None, **config: Any) -> YandexGPT:
    if not config.keys() & {"iam_token", "oauth_token", "service_account_key_file", "metadata_url"}:
        config.setdefault("api_key", Secret(API_KEY))
    config = {"provider": "yandexgpt", "base_url": BASE_URL, "folder": FOLDER, **config}
    return YandexGPT(YandexGPT.Config(**config), world or StillWorld())


def call(kind: str = "chat", **body: Any) -> Call:
    if kind == "chat":
        body.setdefault("messages", [{"role": "user", "content": "Столица Перу?"}])
    return Call(kind, msgspec.convert(body, REQUESTS[kind]), body)


def settings(**fields: Any) -> ModelSettings:
    return ModelSettings(routes=(RouteSettings(upstream="yandex", model="yandexgpt"),), price="free", **fields)


def translator(
    model: str = "yandexgpt",
    surface: str | None = None,
    *,
    of: YandexGPT | None = None,
    facts: ModelSettings | None = None,
    kind: str = "chat",
    generation_id: str = "gen-1",
    **body: Any,
) -> Translator:
    target = Target("yandex", model, "yandexgpt/pro", surface)
    purpose = Purpose(generation_id, "req-1", "conversation", facts or settings())
    made = (of or provider()).translator(call(kind, **body), target, purpose)
    if kind != "embeddings":
        sent(made)  # so that it knows what to do with an answer
    return made


def sent(translator: Translator) -> UpstreamRequest:
    """The one request of an exchange that has no others."""
    exchange = translator.exchange()
    try:
        next(exchange)
    except StopIteration as end:
        return end.value
    raise AssertionError("the exchange yielded a request")


def sent_body(model: str = "yandexgpt", surface: str | None = None, **body: Any) -> dict[str, Any]:
    return json.loads(sent(translator(model, surface, **body)).body)


def header(request: UpstreamRequest, name: bytes) -> bytes | None:
    return next((value for key, value in request.headers if key == name), None)


def native_line(text: str | None = "", status: str = PARTIAL, *, wrap: bool = True, **fields: Any) -> bytes:
    message: dict[str, Any] = {"role": "assistant"}
    if text is not None:
        message["text"] = text
    message |= fields.pop("message", {})
    result = {"alternatives": [{"message": message, "status": status}], "modelVersion": "09.02.2025", **fields}
    return dumps({"result": result} if wrap else result)


def tool_line(*calls: tuple[str, dict[str, Any]]) -> bytes:
    listed = [{"functionCall": {"name": name, "arguments": arguments}} for name, arguments in calls]
    return native_line(None, "ALTERNATIVE_STATUS_TOOL_CALLS", message={"toolCallList": {"toolCalls": listed}})


def usage(prompt: Any = "20", completion: Any = "7", total: Any = "27", **fields: Any) -> dict[str, Any]:
    return {"inputTextTokens": prompt, "completionTokens": completion, "totalTokens": total, **fields}


def stream(*lines: bytes) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def sse(*chunks: dict[str, Any], done: bool = True) -> bytes:
    data = b"".join(b"data: " + dumps(chunk) + b"\n\n" for chunk in chunks)
    return data + b"data: [DONE]\n\n" if done else data


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": choices, **fields}


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def answer(status: int, body: Any = b"", headers: Headers = ()) -> UpstreamAnswer:
    return UpstreamAnswer(status, headers, body if isinstance(body, bytes) else dumps(body))


def read(translator: Translator, data: bytes, cuts: Iterable[int] = ()) -> list[Event]:
    """Feed `data` in the pieces that `cuts` makes, to the end."""
    translator.started(200, ())
    edges = [0, *sorted(cuts), len(data)]
    events: list[Event] = []
    for start, end in pairwise(edges):
        events += translator.feed(data[start:end])
    return [*events, *translator.finish()]


def said(events: Sequence[Event]) -> str:
    return "".join(event.content for event in events if isinstance(event, Text))


def calls(events: Sequence[Event]) -> list[ToolCallPart]:
    return [event for event in events if isinstance(event, ToolCallPart)]


def finish(events: Sequence[Event]) -> Finish:
    """The one end, which is the last event."""
    assert [event for event in events if isinstance(event, Finish)] == [events[-1]]
    assert isinstance(events[-1], Finish)
    return events[-1]


def normal(events: Sequence[Event]) -> list[Event]:
    """Neighbouring texts joined: where a stream was cut may show in how text is portioned, and in nothing else."""
    joined: list[Event] = []
    for event in events:
        if joined and type(joined[-1]) is type(event) and hasattr(event, "content"):
            joined[-1] = type(event)(joined[-1].content + event.content)  # type: ignore[attr-defined, call-arg]
        else:
            joined.append(event)
    return joined
