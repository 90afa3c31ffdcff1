"""Yandex's own token count: free, for its own models only. Source: the sheet's section 11.

Requests and readers of their answers; who sends them is up to the caller.
"""

import msgspec
from msgspec import Struct

from xrouter.context import Call
from xrouter.errors import UpstreamProtocolError
from xrouter.providers.base import CountExchange, Purpose
from xrouter.providers.yandexgpt_access import Access
from xrouter.providers.yandexgpt_models import YandexModel
from xrouter.providers.yandexgpt_native_request import native_request
from xrouter.providers.yandexgpt_request import wanted
from xrouter.upstream.base import UpstreamAnswer, UpstreamRequest
from xrouter.wire import encode_json

_PACE = ("tokenize", 50.0)  # calls a second that a folder may make


class _TokenizeRequest(Struct, rename="camel"):
    model_uri: str
    text: str


class _Token(Struct):
    """`text` and `special` are the vocabulary's spelling, of no use here; only how many there are counts."""

    id: str | int = ""


class _Tokens(Struct):
    tokens: list[_Token] = []


_tokens_decoder = msgspec.json.Decoder(_Tokens)


class TokenCounter:
    """Counts of one model's tokens."""

    def __init__(self, access: Access, model: YandexModel) -> None:
        self._access = access
        self._model = model

    def text(self, text: str) -> UpstreamRequest:
        """Count a text by itself, its opening `<s>` included."""
        body = encode_json(_TokenizeRequest(self._model.uri("gpt"), text))
        return self._access.native("tokenize", body, pace=_PACE, safe=True)

    def call(self, call: Call, purpose: Purpose) -> UpstreamRequest:
        """Count what a completion would be billed for as input, the chat template's tokens included.

        Raises BadRequest as the completion itself would.
        """
        asked = wanted(call, self._model, purpose.model, reasons=self._model.reasons_hidden, strict=False)
        request = native_request(asked, self._model, stream=False)
        return self._access.native("tokenizeCompletion", encode_json(request), pace=_PACE, safe=True)

    def read(self, answer: UpstreamAnswer) -> int:
        """The number of tokens. Raises what a refusal means, or UpstreamProtocolError."""
        if answer.status != 200:
            raise self._access.error(answer)
        try:
            return len(_tokens_decoder.decode(answer.body).tokens)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UpstreamProtocolError("The upstream's token count could not be understood") from None


def count_exchange(counter: TokenCounter, call: Call, purpose: Purpose) -> CountExchange:
    """A chat in one request; of texts, each in its own."""
    if call.kind == "chat":
        return [counter.read((yield counter.call(call, purpose)))]
    counts = []
    for text in call.prompt():
        counts.append(counter.read((yield counter.text(text))))  # noqa: PERF401  no yield in a comprehension
    return counts
