"""YandexGPT: Yandex's native text generation and its OpenAI-compatible surface, behind one upstream.

This file chooses; how each surface speaks is in `yandexgpt_native`, `yandexgpt_compatible` and `yandexgpt_embeddings`. What
the other files of the name `yandexgpt_*` hold is in their first lines. Left out: Responses API, images, files.
"""

from collections.abc import Sequence
from typing import ClassVar

import msgspec
from msgspec import Struct

from xrouter.config.settings import ModelSettings
from xrouter.context import Call, Target
from xrouter.errors import UpstreamProtocolError
from xrouter.providers.base import CountExchange, Provider, Purpose, Translator
from xrouter.providers.yandexgpt_access import Access
from xrouter.providers.yandexgpt_async import AsyncCompletion
from xrouter.providers.yandexgpt_compatible import CompatibleTranslator
from xrouter.providers.yandexgpt_config import YandexGPTSettings
from xrouter.providers.yandexgpt_embeddings import EmbeddingTranslator
from xrouter.providers.yandexgpt_iam import IamFlow, MetadataFlow, bearer
from xrouter.providers.yandexgpt_models import Scheme, Surface, YandexModel
from xrouter.providers.yandexgpt_native import NativeTranslator
from xrouter.providers.yandexgpt_tokenize import TokenCounter, count_exchange
from xrouter.upstream.base import UpstreamAnswer, UpstreamRequest
from xrouter.upstream.signin import FixedSignIn, SignIn, TokenFlow
from xrouter.wire import ChatRequest
from xrouter.world import World

_ALWAYS = frozenset(
    {"temperature", "max_tokens", "max_completion_tokens", "stop", "response_format", "structured_outputs"}
)
_TOOLS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
_REASONING = frozenset({"reasoning", "reasoning_effort"})
_EMBEDDING = frozenset({"dimensions", "encoding_format", "input_type"})


class _ListedModel(Struct):
    id: str


class _ModelList(Struct):
    data: list[_ListedModel]


class YandexGPT(Provider):
    """One folder at Yandex, with the credentials that belong to it."""

    Config = YandexGPTSettings
    uses_conversation = False
    default_concurrency: ClassVar[int | None] = 10  # a folder's quota of simultaneous generations (section 14)
    supported_parameters = _ALWAYS | _TOOLS | _REASONING | _EMBEDDING

    def __init__(self, config: YandexGPTSettings, world: World) -> None:
        self._config = config
        self._world = world
        self._access = Access(config, world)

    @property
    def credentials(self) -> int:
        return max(1, len(self._config.api_keys), len(self._config.key_files))

    def sign_in(self, credential: int = 0) -> SignIn | TokenFlow:
        config = self._config
        if config.api_keys:
            return FixedSignIn(((b"authorization", b"Api-Key " + config.api_keys[credential].reveal().encode()),))
        if config.iam_token:
            return FixedSignIn(bearer(config.iam_token.reveal()))
        if config.oauth_token:
            return IamFlow.for_person(config.iam_url, config.oauth_token, self._world)
        if config.metadata_url:
            return MetadataFlow(config.metadata_url, self._world)
        from xrouter.providers.yandexgpt_key import load_key  # see there why not above

        key = load_key(config.key_files[credential])
        return IamFlow.for_service_account(config.iam_url, key, config.iam_audience, self._world)

    def translator(self, call: Call, target: Target, purpose: Purpose) -> Translator:
        """Raises UpstreamError for a route whose model is none of this folder's: a mistake of the configuration."""
        if call.kind == "embeddings":
            model = self._access.model(target.model, "emb")
            surface: Surface = "openai" if target.surface == "openai" else "native"
            return EmbeddingTranslator(self._access, model, surface, call)
        model = self._access.model(target.model, "gpt")
        if _surface(model, target, _has_tools(call)) == "native":
            return NativeTranslator(self._access, model, call, purpose)
        return CompatibleTranslator(self._access, model, call, purpose)

    def token_counter(self, target: Target) -> TokenCounter:
        """Yandex's own count, for its own models."""
        return TokenCounter(self._access, self._access.model(target.model, "gpt"))

    def count(self, call: Call, target: Target, purpose: Purpose) -> CountExchange | None:
        """Yandex counts for its own models only; a chat with its template, texts with the mark that begins each."""
        if purpose.model.kind != "chat" or not self._access.model(target.model, "gpt").own:
            return None
        return count_exchange(self.token_counter(target), call, purpose)

    def async_completion(
        self, call: Call, target: Target, purpose: Purpose, *, poll_s: float = 10.0, give_up_s: float = 3600.0
    ) -> AsyncCompletion:
        """The same completion in asynchronous mode, for a batch. The defaults are those of Yandex's own SDK."""
        model = self._access.model(target.model, "gpt")
        return AsyncCompletion(self._access, model, call, purpose, poll_s=poll_s, give_up_s=give_up_s)

    def list_models(self) -> UpstreamRequest:
        return self._access.openai("models", b"")

    def read_models(self, answer: UpstreamAnswer) -> Sequence[str]:
        """The folder's own text and embedding models by their short names; other folders' shared ones are left out."""
        if answer.status != 200:
            raise self._access.error(answer)
        try:
            listed = msgspec.json.decode(answer.body, type=_ModelList).data
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UpstreamProtocolError("The upstream's list of models could not be understood") from None
        names = (self._short_name(model.id) for model in listed)
        return list(dict.fromkeys(name for name in names if name is not None))

    def parameters(self, model: ModelSettings, target: Target) -> frozenset[str]:
        if model.kind == "embedding":
            return _EMBEDDING
        yandex_model = self._access.model(target.model, "gpt")
        native = _surface(yandex_model, target, has_tools=False) == "native"
        reasons = yandex_model.reasons_hidden if native else model.reasoning
        return _ALWAYS | (_TOOLS if model.tools else frozenset()) | (_REASONING if reasons else frozenset())

    def _short_name(self, uri: str) -> str | None:
        schemes: tuple[Scheme, ...] = ("gpt", "emb")
        for scheme in schemes:
            if uri.startswith(f"{scheme}://"):
                try:
                    return YandexModel.parse(uri, self._config.folder, scheme).short
                except ValueError:
                    return None
        return None


def _surface(model: YandexModel, target: Target, has_tools: bool) -> Surface:
    """The route's choice, or the model's. Tools go to the compatible surface where the native one cannot run them."""
    native = target.surface == "native" or (target.surface is None and model.default_surface == "native")
    return "native" if native and (model.calls_tools_natively or not has_tools) else "openai"


def _has_tools(call: Call) -> bool:
    return isinstance(call.request, ChatRequest) and bool(call.request.tools or call.request.functions)
