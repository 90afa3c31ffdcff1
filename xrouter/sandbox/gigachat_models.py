"""The models of the emulated GigaChat (gigachat.md section 8)."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Model:
    id: str
    type: Literal["chat", "embedder", "aicheck", "filter"] = "chat"
    version: str = "2.0.28.2"
    context: int = 131_072
    dimensions: int = 0

    def listed(self) -> dict[str, str]:
        return {"id": self.id, "object": "model", "owned_by": "salutedevices", "type": self.type}

    @property
    def echoed(self) -> str:
        """The name in an answer: with the version."""
        return f"{self.id}:{self.version}"


_PREVIEWED = ("GigaChat", "GigaChat-Pro", "GigaChat-Max", "GigaChat-2", "GigaChat-2-Pro", "GigaChat-2-Max")

_ALL = (
    Model("GigaChat"),
    Model("GigaChat-Plus", context=32_768),
    Model("GigaChat-Pro"),
    Model("GigaChat-Max"),
    Model("GigaChat-2"),
    Model("GigaChat-2-Pro"),
    Model("GigaChat-2-Max"),
    Model("GigaChat-2-Reasoning"),
    Model("GigaChat-3-Lightning", version="32.3.18.5"),
    Model("GigaChat-3-Pro", version="32.3.18.5"),
    Model("GigaChat-3-Ultra", version="32.3.18.5"),
    Model("GigaChat-3-Ultra-preview", version="32.3.18.5"),
    *(Model(f"{name}-preview") for name in _PREVIEWED),
    Model("GigaFilter", "filter"),
    Model("GigaCheckClassification", "aicheck"),
    Model("GigaCheckDetection", "aicheck"),
    Model("Embeddings", "embedder", context=512, dimensions=1024),
    Model("Embeddings-2", "embedder", context=512, dimensions=1024),
    Model("EmbeddingsGigaR", "embedder", context=4096, dimensions=2560),
    Model("GigaEmbeddings-3B-2025-09", "embedder", context=4096, dimensions=2048),
)

MODELS = {model.id: model for model in _ALL}
