"""Embeddings at GigaChat: section 10 of the sheet."""

from collections.abc import Sequence

import msgspec

from xrouter.errors import BadRequest, UpstreamProtocolError, XRouterError
from xrouter.events import Embedding, Event, Usage
from xrouter.providers.base import Exchange, Purpose, Translator
from xrouter.providers.gigachat_errors import ErrorReader, header_id
from xrouter.providers.gigachat_http import GigaChatApi, trace_headers
from xrouter.providers.gigachat_wire import ReadEmbeddings, ReadVector, SentEmbeddings
from xrouter.upstream.base import Headers, UpstreamAnswer
from xrouter.wire import EmbeddingRequest

_MAX_ANSWER_BYTES = 256 * 1024 * 1024


class EmbeddingTranslator(Translator):
    def __init__(
        self, request: EmbeddingRequest, model: str, purpose: Purpose, *, api: GigaChatApi, errors: ErrorReader
    ) -> None:
        self._request = request
        self._model = model
        self._trace = trace_headers(purpose.request_id, purpose.conversation)
        self._api = api
        self._errors = errors
        self._inputs = 0
        self._body: list[bytes] = []
        self._size = 0

    def exchange(self) -> Exchange:
        inputs = [self._request.input] if isinstance(self._request.input, str) else self._request.input
        texts = [text for text in inputs if isinstance(text, str)]
        if len(texts) != len(inputs):
            raise BadRequest("GigaChat embeds texts, not token ids", param="input")
        if self._request.dimensions is not None:
            raise BadRequest("The length of this model's vectors is fixed", param="dimensions")
        self._inputs = len(texts)
        yield from ()  # one request is all
        return self._api.post("/embeddings", SentEmbeddings(self._model, texts), self._trace)

    def started(self, status: int, headers: Headers) -> None:
        self.upstream_id = header_id(headers)

    def feed(self, data: bytes) -> Sequence[Event]:
        self._size += len(data)
        if self._size > _MAX_ANSWER_BYTES:
            raise UpstreamProtocolError(
                "The upstream's answer is too long", detail=f"more than {_MAX_ANSWER_BYTES} bytes"
            )
        self._body.append(data)
        return ()

    def finish(self) -> Sequence[Event]:
        try:
            answer = msgspec.json.decode(b"".join(self._body), type=ReadEmbeddings)
        except (ValueError, RecursionError) as error:
            raise UpstreamProtocolError(detail=f"{type(error).__name__}: {error}") from None
        vectors = sorted(answer.data, key=lambda vector: vector.index)
        if [vector.index for vector in vectors] != list(range(self._inputs)):
            raise UpstreamProtocolError(
                "The upstream did not embed every input", detail=f"{len(vectors)} vectors for {self._inputs} inputs"
            )
        self.upstream_model = answer.model
        self.usage = _usage(vectors)
        return [Embedding(vector.index, vector.embedding) for vector in vectors]

    def error(self, answer: UpstreamAnswer) -> XRouterError:
        return self._errors.answer(answer)


def _usage(vectors: Sequence[ReadVector]) -> Usage | None:
    """The sum of the items' own counts; None if one of them lacks it."""
    total = 0
    for vector in vectors:
        tokens = vector.usage.prompt_tokens if vector.usage else None
        if tokens is None or tokens < 0:
            return None
        total += tokens
    return Usage(input_tokens=total, output_tokens=0)
