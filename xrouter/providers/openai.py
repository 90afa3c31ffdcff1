"""Any upstream that speaks OpenAI's API: vLLM, llama.cpp, Ollama, another gateway, OpenAI itself.

The client speaks the same protocol, so bytes pass through: a request is sent as it came where nothing in it has to change,
a stream's chunks go back as they came (`Verbatim`), and only what this gateway needs to know is parsed: errors, the
finish, the usage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

import msgspec

from xrouter.config.settings import ModelSettings, UpstreamSettings
from xrouter.context import Call, Target
from xrouter.errors import UpstreamProtocolError, XRouterError
from xrouter.events import Answer, Event, Finish, Usage, Verbatim
from xrouter.providers.base import Provider, Purpose, Translator
from xrouter.providers.finish import finish_reason
from xrouter.providers.openai_errors import error_from, error_inside
from xrouter.providers.safe_text import safe_type
from xrouter.providers.sse import DONE
from xrouter.providers.text_runs import TextRuns
from xrouter.secret import Secret, each
from xrouter.upstream.base import Headers, UpstreamAnswer, UpstreamRequest, header
from xrouter.upstream.signin import FixedSignIn, SignIn
from xrouter.wire import decode_json, encode_json
from xrouter.world import World

_MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_PATHS: Final = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
_GATEWAY_FIELDS: Final = frozenset(
    {
        "models",
        "provider",
        "route",
        "preset",
        "session_id",
        "trace",
        "usage",
        "transforms",
        "plugins",
        "debug",
        "image_config",
        "prompt_cache_options",
        "stop_server_tools_when",
    }
)  # fmt: skip  OpenRouter's additions: they are answered here, and a strict upstream refuses them
_EMBEDDING_PARAMETERS: Final = frozenset({"dimensions", "encoding_format"})
_TOOL_PARAMETERS: Final = frozenset({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"})
_NAME_CHARS: Final = 128  # of an upstream's own names, which go into the log
_HEADERS: Final = ((b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream"))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIConfig(UpstreamSettings):
    api_key: Secret | tuple[Secret, ...] | None = None  # several take turns
    organization: str | None = None
    stream_usage: bool = True  # ask for usage in streams; a few old servers refuse `stream_options`

    def __post_init__(self) -> None:
        if self.organization is not None and not (self.organization.isascii() and self.organization.isprintable()):
            raise ValueError("`organization` stands in a header: printable ASCII characters")

    @property
    def keys(self) -> tuple[Secret, ...]:
        return each(self.api_key)


class OpenAI(Provider):
    Config = OpenAIConfig
    uses_conversation = False
    supported_parameters = frozenset(
        {
            "temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "frequency_penalty", "presence_penalty",
            "repetition_penalty", "seed", "stop", "n", "logit_bias", "logprobs", "top_logprobs", "tools", "tool_choice",
            "parallel_tool_calls", "functions", "function_call", "response_format", "structured_outputs", "reasoning",
            "reasoning_effort", "include_reasoning", "dimensions", "encoding_format", "suffix", "echo", "best_of",
        }
    )  # fmt: skip

    def __init__(self, config: OpenAIConfig, world: World) -> None:
        self._config = config
        self._world = world

    @property
    def credentials(self) -> int:
        return max(1, len(self._config.keys))

    def sign_in(self, credential: int = 0) -> SignIn:
        headers: list[tuple[bytes, bytes]] = []
        if self._config.keys:
            headers.append((b"authorization", f"Bearer {self._config.keys[credential].reveal()}".encode()))
        if self._config.organization:
            headers.append((b"openai-organization", self._config.organization.encode()))
        return FixedSignIn(tuple(headers))

    def translator(self, call: Call, target: Target, purpose: Purpose) -> Translator:
        return OpenAITranslator(self._config, call, target, self._world)

    def parameters(self, model: ModelSettings, target: Target) -> frozenset[str]:
        if model.kind == "embedding":
            return _EMBEDDING_PARAMETERS
        missing = _EMBEDDING_PARAMETERS if model.tools else _EMBEDDING_PARAMETERS | _TOOL_PARAMETERS
        return self.supported_parameters - missing

    def list_models(self) -> UpstreamRequest:
        return UpstreamRequest("GET", self._config.base_url.rstrip("/") + "/models", idempotent=True)

    def read_models(self, answer: UpstreamAnswer) -> Sequence[str]:
        """Raises what an answer other than 2xx means, or UpstreamProtocolError."""
        if not 200 <= answer.status < 300:
            raise error_from(answer, self._config.keys, self._world)
        try:
            return [model["id"] for model in decode_json(answer.body)["data"]]
        except (ValueError, RecursionError, TypeError, KeyError) as error:
            raise UpstreamProtocolError(detail=f"the list of models: {type(error).__name__}") from None


class OpenAITranslator(Translator):
    """Chat completions, completions and embeddings alike: they differ in what the surface makes of the chunks."""

    def __init__(self, config: OpenAIConfig, call: Call, target: Target, world: World) -> None:
        self._config = config
        self._call = call
        self._target = target
        self._world = world
        self._runs: TextRuns | None = None  # of an answer that streams
        self._pieces: list[bytes] = []
        self._size = 0
        self._failure: XRouterError | None = None
        self._done = False
        self._finished = False

    def exchange(self) -> UpstreamRequest:
        url = self._config.base_url.rstrip("/") + _PATHS[self._call.kind]
        return UpstreamRequest("POST", url, _HEADERS, self._body())

    def _body(self) -> bytes:
        call = self._call
        asks_usage = call.stream and self._config.stream_usage
        options = call.body.get("stream_options") or {}
        same = (
            call.raw is not None
            and call.body.get("model") == self._target.model
            and _GATEWAY_FIELDS.isdisjoint(call.body)
            and (options.get("include_usage") is True if asks_usage else "stream_options" not in call.body)
        )
        if same:
            return cast(bytes, call.raw)
        body = {key: value for key, value in call.body.items() if key not in _GATEWAY_FIELDS}
        body["model"] = self._target.model
        if asks_usage:
            body["stream_options"] = {**options, "include_usage": True}
        elif "stream_options" in body:
            del body["stream_options"]
        return encode_json(body)

    def started(self, status: int, headers: Headers) -> None:
        content_type = (header(headers, b"content-type") or b"").lower()
        if content_type.startswith(b"text/event-stream"):
            self._runs = TextRuns(own=True)
            asked = self._call.stream
        else:
            asked = content_type.startswith(b"application/json")
        if not asked:
            raise UpstreamProtocolError(detail=f"content type {safe_type(content_type)}")

    def feed(self, data: bytes) -> Sequence[Event]:
        runs = self._runs
        if runs is None:
            self._size += len(data)
            if self._size > _MAX_ANSWER_BYTES:
                raise UpstreamProtocolError(
                    "The upstream's answer is too long", detail=f"more than {_MAX_ANSWER_BYTES} bytes"
                )
            self._pieces.append(data)
            return ()
        events: list[Event] = []
        try:
            for part in runs.feed(data):
                if isinstance(part, bytes):
                    self._chunk(part, events)
                elif not self._done:
                    events.append(part)
        except XRouterError as failure:
            if not events:
                raise
            self._failure = failure  # what came before it in the same piece is the client's; `finish` raises it
        return events

    def finish(self) -> Sequence[Event]:
        if self._failure is not None:
            raise self._failure
        if self._runs is None:
            return self._whole(b"".join(self._pieces))
        events: list[Event] = []
        for data in self._runs.finish():
            self._chunk(data, events)
        if not self._done and not self._finished:
            raise UpstreamProtocolError("The upstream's answer was cut off", detail="no [DONE] and no finish_reason")
        return events

    @property
    def complete(self) -> bool:
        return self._done or self._failure is not None

    def error(self, answer: UpstreamAnswer) -> XRouterError:
        return error_from(answer, self._config.keys, self._world)

    def _chunk(self, data: bytes, events: list[Event]) -> None:
        """One `data:` field. A chunk of plain text, the bulk of a stream, is only scanned for what would need parsing.

        The scan cannot be fooled by the model's words: inside a JSON string a quotation mark is escaped.
        """
        if data == DONE:
            self._done = True
            return
        if self._done:
            return
        if (
            self.upstream_id is not None
            and (b'"finish_reason":null' in data or b'"finish_reason": null' in data)
            and b'"usage"' not in data
            and b'"error"' not in data
        ):
            chunk = Verbatim(data)
            events.append(chunk)
            self._learn(chunk)
            return
        self._read_chunk(data, events)

    def _learn(self, chunk: Verbatim) -> None:
        """Show the decoder what the chunks of this stream look like, where all that changes is one choice's text."""
        if self._runs is None or not self._runs.wants:
            return
        choices = chunk.body.get("choices")
        if isinstance(choices, list) and len(choices) == 1 and (text := chunk.text):
            self._runs.learn(chunk.data, text)

    def _read_chunk(self, data: bytes, events: list[Event]) -> None:
        chunk = _object(data)
        if chunk.get("error"):
            raise error_inside(chunk["error"], self._config.keys)
        self._name(chunk)
        if usage := _usage(chunk.get("usage"), self._call.kind):
            self.usage = usage
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            raise UpstreamProtocolError(detail="a chunk without choices")
        if not choices:
            return
        ends, changed = _ends(choices)
        whole = "usage" not in chunk
        if not whole:
            del chunk["usage"]  # the surface gives the client the gateway's own, with the cost, once
        if changed or not whole:
            data = encode_json(chunk)
        events.append(verbatim := Verbatim(data, chunk))
        if ends:
            self._finished = True
            events += ends
        elif whole:
            self._learn(verbatim)

    def _whole(self, data: bytes) -> Sequence[Event]:
        body = _object(data)
        if body.get("error"):
            raise error_inside(body["error"], self._config.keys)
        self._name(body)
        self.usage = _usage(body.get("usage"), self._call.kind)
        items = body.get("data" if self._call.kind == "embeddings" else "choices")
        if not isinstance(items, list) or set(map(type, items)) != {dict}:
            raise UpstreamProtocolError(detail="an answer without choices or data")
        ends, _ = _ends(items)
        return [Answer(body), *ends[:1]]

    def _name(self, body: dict[str, Any]) -> None:
        if self.upstream_id is None:
            id_, model = body.get("id"), body.get("model")
            self.upstream_id = id_[:_NAME_CHARS] if isinstance(id_, str) else ""
            self.upstream_model = model[:_NAME_CHARS] if isinstance(model, str) else None


def _ends(choices: list[Any]) -> tuple[list[Finish], bool]:
    """How those choices ended that did, and whether a word was replaced.

    Some servers have words of their own (`eos`, `LENGTH`): the choice then gets OpenAI's, with the native one beside it.
    """
    ends, changed = [], False
    for choice in choices:
        native = choice.get("finish_reason") if isinstance(choice, dict) else None
        if native and isinstance(native, str):  # '' is how some say null
            reason = finish_reason(native)
            ends.append(Finish(reason, native))
            if native not in (reason, "function_call"):  # the older form's word
                choice["finish_reason"] = reason
                choice.setdefault("native_finish_reason", native)
                changed = True
    return ends, changed


_Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _CachedTokens(msgspec.Struct):
    cached_tokens: _Tokens | None = None


class _ReasoningTokens(msgspec.Struct):
    reasoning_tokens: _Tokens | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens | None = None
    prompt_tokens_details: _CachedTokens | None = None
    completion_tokens_details: _ReasoningTokens | None = None


def _usage(reported: Any, kind: str) -> Usage | None:
    """The usage that an upstream reported; None if it reported none that can be true (F07: negative, huge, not a number).

    An answer's tokens that are not told are not zero: then all is counted here. Embeddings have none.
    """
    if reported is None:
        return None
    try:
        usage = msgspec.convert(reported, _Usage, strict=False)
    except msgspec.ValidationError:
        return None
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
    reasoning = usage.completion_tokens_details.reasoning_tokens if usage.completion_tokens_details else None
    output = 0 if kind == "embeddings" else usage.completion_tokens
    if output is None:
        return None
    if (cached or 0) > usage.prompt_tokens or (reasoning or 0) > output:
        cached = reasoning = None
    return Usage(usage.prompt_tokens, output, cached, reasoning)


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = decode_json(data)
    except (ValueError, RecursionError) as error:
        raise UpstreamProtocolError(detail=f"not JSON: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise UpstreamProtocolError(detail="not a JSON object")
    return value
