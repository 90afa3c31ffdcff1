"""Embeddings: one text a call at Yandex, on either surface, so a list becomes calls one after the other.

Source: the sheet's section 13. All but the last call are answered while `exchange` runs; any failure fails the request.
"""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from xrouter.context import Call
from xrouter.errors import BadRequest, InternalError, UpstreamProtocolError, XRouterError
from xrouter.events import Embedding, Event, Usage
from xrouter.providers.base import Exchange, Translator
from xrouter.providers.whole_body import WholeBody
from xrouter.providers.yandexgpt_access import Access
from xrouter.providers.yandexgpt_errors import answer_name, refuse_markup
from xrouter.providers.yandexgpt_models import Surface, YandexModel, served_name
from xrouter.upstream.base import Headers, UpstreamAnswer, UpstreamRequest
from xrouter.wire import EmbeddingRequest, decode_json, encode_json

# A folder may make 10 calls a second (section 14). Evenly spaced at exactly that, two calls that arrive a moment closer
# together than they were sent would be refused.
_PACE = ("embeddings", 9.0)
_MAX_ANSWER_BYTES = 2 * 1024 * 1024


class _NativeRequest(Struct, rename="camel", omit_defaults=True):
    """`textEmbedding`."""

    model_uri: str
    text: str
    dim: str | None = None  # an int64 of protobuf, so a string in JSON


class _CompatibleRequest(Struct, omit_defaults=True):
    """`/v1/embeddings`, with the one input that is documented."""

    model: str
    input: str
    encoding_format: Literal["float"]
    dimensions: int | None = None


class _Vector(Struct):
    embedding: list[float]


class _CompatibleUsage(Struct):
    prompt_tokens: int | None = None


class _Answer(Struct, rename="camel"):
    """Either surface's answer: the native one has `embedding` and `num_tokens`, the compatible one `data` and `usage`."""

    embedding: list[float] | None = None
    num_tokens: int | None = None
    model_version: str | None = None
    data: list[_Vector] = []
    usage: _CompatibleUsage | None = None
    model: str | None = None
    error: object = None


_answer_decoder = msgspec.json.Decoder(_Answer, strict=False)


class EmbeddingTranslator(Translator):
    """The vectors of one request, in the order of its inputs."""

    def __init__(self, access: Access, model: YandexModel, surface: Surface, call: Call) -> None:
        if not isinstance(call.request, EmbeddingRequest):
            raise InternalError(detail=f"{type(call.request).__name__} asks for no embeddings")
        self._access = access
        self._request = call.request
        self._surface = surface
        self._uri = model.for_input(call.request.input_type).uri("emb")
        preferences = call.request.provider
        self._private = preferences is not None and preferences.data_collection == "deny"
        self._events: list[Event] = []
        self._tokens: int | None = 0  # None once an answer did not say
        self._whole = WholeBody(_MAX_ANSWER_BYTES)

    def exchange(self) -> Exchange:
        *first, last = [self._call(text) for text in _texts(self._request)]
        for request in first:
            answer = yield request
            if answer.status != 200:
                raise self.error(answer)
            refuse_markup(answer.headers)
            self._take(answer.body)
        return last

    def started(self, status: int, headers: Headers) -> None:
        refuse_markup(headers)
        self.upstream_id = answer_name(headers)

    def feed(self, data: bytes) -> Sequence[Event]:
        self._whole.add(data)
        return ()

    def finish(self) -> Sequence[Event]:
        self._take(self._whole.joined())
        if self._tokens is not None:
            self.usage = Usage(self._tokens, 0)
        return self._events

    def error(self, answer: UpstreamAnswer) -> XRouterError:
        return self._access.error(answer)

    def _call(self, text: str) -> UpstreamRequest:
        dimensions = self._request.dimensions
        if self._surface == "native":
            native = _NativeRequest(self._uri, text, None if dimensions is None else str(dimensions))
            return self._access.native(
                "textEmbedding", encode_json(native), private=self._private, pace=_PACE, safe=True
            )
        compatible = _CompatibleRequest(self._uri, text, "float", dimensions)
        return self._access.openai("embeddings", encode_json(compatible), private=self._private, pace=_PACE, safe=True)

    def _take(self, body: bytes) -> None:
        try:
            answer = _answer_decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamProtocolError(detail=f"not an embedding: {type(error).__name__}") from None
        if answer.error:
            raise self._access.error_in_body(decode_json(body))
        vector = answer.embedding or (answer.data[0].embedding if answer.data else [])
        if not vector or not all(map(math.isfinite, vector)):
            raise UpstreamProtocolError(detail="an embedding without numbers")
        self._events.append(Embedding(len(self._events), vector))
        tokens = answer.usage.prompt_tokens if answer.usage is not None else answer.num_tokens
        self._tokens = None if tokens is None or tokens < 0 or self._tokens is None else self._tokens + tokens
        if served := answer.model_version or answer.model:
            self.upstream_model = served_name(served)


def _texts(request: EmbeddingRequest) -> list[str]:
    inputs = [request.input] if isinstance(request.input, str) else request.input
    texts = [item for item in inputs if isinstance(item, str)]
    if len(texts) != len(inputs):
        raise BadRequest("This model takes texts, not lists of tokens", param="input")
    if not all(texts):
        raise BadRequest("An input is empty", param="input")
    return texts
