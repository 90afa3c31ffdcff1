"""GigaChat, API v1 (`../shared/providers/gigachat.md` is the fact sheet that the gigachat_* files cite by section).

gigachat_config      what an operator sets            gigachat_oauth       access tokens
gigachat_http        requests as bytes                gigachat_wire        the API's JSON shapes
gigachat_request     a chat request's body            gigachat_answer      an answer as events
  gigachat_messages    the conversation                 gigachat_think       <think>…</think>
  gigachat_calls       ids, arguments, results          gigachat_structured  a forced call as JSON content
  gigachat_functions   names and tools                gigachat_chat        one chat completion
  gigachat_schema      JSON Schema                    gigachat_embeddings  one embedding call
  gigachat_images      data URLs, uploaded files      gigachat_errors      what failures mean
"""

from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from xrouter.config.settings import ModelSettings
from xrouter.context import Call, Target
from xrouter.errors import UpstreamProtocolError
from xrouter.providers.base import CountExchange, Provider, Purpose, Translator
from xrouter.providers.gigachat_chat import ChatTranslator
from xrouter.providers.gigachat_config import GigaChatConfig
from xrouter.providers.gigachat_embeddings import EmbeddingTranslator
from xrouter.providers.gigachat_errors import ErrorReader
from xrouter.providers.gigachat_http import GigaChatApi
from xrouter.providers.gigachat_images import UploadedImages
from xrouter.providers.gigachat_oauth import GigaChatTokenFlow, PasswordTokenFlow, bearer
from xrouter.providers.gigachat_wire import ReadModels, ReadTokenCount, SentTexts
from xrouter.upstream.base import UpstreamAnswer, UpstreamRequest
from xrouter.upstream.signin import FixedSignIn, SignIn, TokenFlow
from xrouter.wire import EmbeddingRequest, encode_json
from xrouter.world import World

T = TypeVar("T")

_SERVED_TYPES: Final = frozenset({"chat", "embedder"})  # the others are detectors and filters (section 8)
_TOOL_PARAMETERS: Final = frozenset({"tools", "tool_choice", "functions", "function_call"})
_REASONING_PARAMETERS: Final = frozenset({"reasoning", "reasoning_effort", "include_reasoning"})


class GigaChat(Provider):
    Config = GigaChatConfig
    supported_parameters = (
        frozenset(
            {
                "max_completion_tokens",
                "max_tokens",
                "repetition_penalty",
                "response_format",
                "stop",
                "structured_outputs",
                "temperature",
                "top_p",
            }
        )
        | _TOOL_PARAMETERS
        | _REASONING_PARAMETERS
    )

    def __init__(self, config: GigaChatConfig, world: World) -> None:
        self._config = config
        self._world = world
        self._api = GigaChatApi(config.base_url)
        self._errors = ErrorReader(world, config.secrets())
        self._uploads = [
            UploadedImages(world, config.image_ttl_s) for _ in range(self.credentials)
        ]  # a file is its key's

    @property
    def default_concurrency(self) -> int | None:  # type: ignore[override]  # read like the class variable
        """Section 11: one request at a time for a person, ten for a company."""
        return 1 if self._config.scope == "GIGACHAT_API_PERS" else 10

    @property
    def credentials(self) -> int:
        return max(1, len(self._config.keys))

    def sign_in(self, credential: int = 0) -> SignIn | TokenFlow:
        config = self._config
        if config.access_token:
            return FixedSignIn(bearer(config.access_token.reveal()))
        if config.keys:
            return GigaChatTokenFlow(config.auth_url, config.keys[credential], config.scope, self._world)
        if config.user and config.password:
            return PasswordTokenFlow(config.base_url, config.user, config.password, self._world)
        return FixedSignIn()  # the client certificate says who we are

    def translator(self, call: Call, target: Target, purpose: Purpose) -> Translator:
        if isinstance(call.request, EmbeddingRequest):
            return EmbeddingTranslator(call.request, target.model, purpose, api=self._api, errors=self._errors)
        return ChatTranslator(
            call.request,
            target.model,
            purpose,
            api=self._api,
            config=self._config,
            errors=self._errors,
            uploads=self._uploads[purpose.credential],
            world=self._world,
        )

    def list_models(self) -> UpstreamRequest:
        return self._api.get("/models")

    def read_models(self, answer: UpstreamAnswer) -> Sequence[str]:
        """Raises what an answer other than 2xx means, or UpstreamProtocolError."""
        models = self._read(answer, ReadModels)
        return [model.id for model in models.data if model.type in _SERVED_TYPES]

    def parameters(self, model: ModelSettings, target: Target) -> frozenset[str]:
        if model.kind == "embedding":
            return frozenset({"encoding_format"})
        missing = frozenset[str]()
        if not model.tools:
            missing |= _TOOL_PARAMETERS
        if not model.reasoning:
            missing |= _REASONING_PARAMETERS
        if self._config.strict:
            missing |= {"stop"}
        return self.supported_parameters - missing

    def count(self, call: Call, target: Target, purpose: Purpose) -> CountExchange | None:
        """The texts as they are: what the chat's template adds to them, GigaChat tells only in an answer's usage."""
        return self._count(call, target) if purpose.model.kind == "chat" else None

    def count_tokens(self, texts: Sequence[str], model: str) -> UpstreamRequest:
        """The request that counts the tokens of each text, as they are, without a chat's template (section 9). Free."""
        return self._api.post("/tokens/count", SentTexts(model, list(texts)))

    def read_token_counts(self, answer: UpstreamAnswer) -> Sequence[int]:
        """Tokens of each text, in their order. Raises what an answer other than 2xx means, or UpstreamProtocolError."""
        return [count.tokens for count in self._read(answer, list[ReadTokenCount])]

    def _count(self, call: Call, target: Target) -> CountExchange:
        tools = call.body.get("tools") or call.body.get("functions") or ()
        texts = [*call.prompt(), *(encode_json(tool).decode() for tool in tools)]
        asked = [text for text in texts if text]
        counts = self.read_token_counts((yield self.count_tokens(asked, target.model))) if asked else ()
        if len(counts) != len(asked):
            raise UpstreamProtocolError(detail=f"{len(counts)} token counts of {len(asked)} texts")
        known = iter(counts)
        return [next(known) if text else 0 for text in texts]

    def _read(self, answer: UpstreamAnswer, shape: type[T]) -> T:
        if not 200 <= answer.status < 300:
            raise self._errors.answer(answer)
        try:
            return msgspec.json.decode(answer.body, type=shape)
        except (ValueError, RecursionError) as error:
            raise UpstreamProtocolError(detail=f"{type(error).__name__}: {error}") from None
