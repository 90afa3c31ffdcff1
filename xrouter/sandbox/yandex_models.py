"""The models of the emulated Yandex AI Studio and their URIs (yandexgpt.md section 10)."""

import re
from dataclasses import dataclass

from xrouter.sandbox.state import SandboxState
from xrouter.sandbox.yandex_dialect import INVALID_ARGUMENT, NOT_FOUND, YandexDialect, check_folder

MODEL_VERSION = "09.02.2025"

_URI = re.compile(
    r"(?P<scheme>gpt|emb|art|cls)://(?P<folder>[^/\s]+)/(?P<name>[^/@\s]+)(?:/(?P<branch>[^/@\s]+))?(?:@(?P<tuned>[^/@\s]+))?"
)


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    scheme: str = "gpt"
    context: int = 32_768
    native: bool = True
    branches: tuple[str, ...] = ("deprecated", "latest", "rc")
    hidden_reasoning: bool = False  # native reasoningOptions
    open_weight: bool = False  # shows its reasoning, moderation off
    vision: bool = False
    dimensions: tuple[int, ...] = ()  # the first is the default


_LATEST = ("latest",)


def _open(name: str, context: int, *, vision: bool = False) -> Model:
    return Model(name, context=context, native=False, branches=_LATEST, open_weight=True, vision=vision)


_ALL = (
    Model("yandexgpt-lite"),
    Model("yandexgpt-5-lite", branches=_LATEST),
    Model("yandexgpt", hidden_reasoning=True),
    Model("yandexgpt-5-pro", branches=_LATEST, hidden_reasoning=True),
    Model("yandexgpt-5.1", branches=_LATEST),
    Model("aliceai-llm", branches=("latest", "rc")),
    Model("aliceai-llm-flash", context=65_536, native=False, branches=_LATEST),
    _open("deepseek-v32", 131_072),
    _open("deepseek-v4-flash", 1_048_576),
    _open("deepseek-v4.1-flash", 1_048_576),
    _open("qwen3-235b-a22b-fp8", 262_144),
    _open("qwen3.6-35b-a3b", 262_144, vision=True),
    _open("gpt-oss-120b", 131_072),
    _open("gpt-oss-20b", 131_072),
    _open("gemma-3-27b-it", 131_072, vision=True),
    Model("text-search-doc", "emb", 2048, branches=_LATEST, dimensions=(256,)),
    Model("text-search-query", "emb", 2048, branches=_LATEST, dimensions=(256,)),
    Model("text-embeddings-v2-doc", "emb", 2048, branches=_LATEST, dimensions=(256, 768)),
    Model("text-embeddings-v2-query", "emb", 2048, branches=_LATEST, dimensions=(256, 768)),
    Model("text-embeddings", "emb", 2048, branches=_LATEST, dimensions=(1536,)),
)

MODELS = {(model.scheme, model.name): model for model in _ALL}


@dataclass(frozen=True, slots=True)
class Addressed:
    """A model and the branch that a URI names."""

    model: Model
    branch: str

    @property
    def echoed(self) -> str:
        """What the compatible surface answers in `model`: a shortened name (section 9)."""
        return f"{self.model.name}/{self.branch}"


def resolve(state: SandboxState, uri: str, scheme: str, dialect: YandexDialect, unparsable: str) -> Addressed:
    """The model that `uri` addresses. Raises Refusal: 400 `unparsable`, 400 for another folder, 404."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise dialect.refuse(INVALID_ARGUMENT, unparsable)
    check_folder(state, found["folder"], dialect)
    model = MODELS.get((found["scheme"], found["name"]))
    branch = found["branch"] or "latest"
    if model is None or model.scheme != scheme or branch not in model.branches:
        raise dialect.refuse(NOT_FOUND, "Failed to get model")
    if found["tuned"] and model.name != "yandexgpt-lite":
        raise dialect.refuse(NOT_FOUND, "Failed to get model")
    return Addressed(model, branch)


def listed(folder: str) -> list[dict[str, object]]:
    """The models as the compatible surface lists them: by URI."""
    return [
        {
            "id": f"{model.scheme}://{folder}/{model.name}/{branch}",
            "object": "model",
            "created": 0,
            "owned_by": "yandex",
        }
        for model in _ALL
        for branch in model.branches
    ] + [{"id": f"art://{folder}/yandex-art/latest", "object": "model", "created": 0, "owned_by": "yandex"}]
