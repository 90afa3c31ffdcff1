"""`POST embeddings`."""

import base64
import struct
from collections.abc import Sequence
from typing import Any

from xrouter.context import Cost
from xrouter.events import Answer, Embedding, Event, Usage
from xrouter.surfaces.base import Renderer, encode, usage_object
from xrouter.wire import EmbeddingRequest


class EmbeddingAnswer(Renderer):
    streams = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._vectors: dict[int, list[float]] = {}
        self._whole: dict[str, Any] | None = None

    def feed(self, events: Sequence[Event]) -> bytes:
        for part in events:
            match part:
                case Embedding(index, vector):
                    self._vectors[index] = vector
                case Answer(body):
                    self._whole = body
        return b""

    def end(self, usage: Usage | None, cost: Cost | None) -> bytes:
        request = self.call.request
        assert isinstance(request, EmbeddingRequest)
        as_base64 = request.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": packed(vector) if as_base64 else vector}
            for index, vector in sorted(self._vectors.items())
        ]
        body = self._whole or {"object": "list", "data": data}
        body = {**body, "id": self.head.id, "model": self.head.model, "provider": self.head.provider}
        if usage is not None:
            counted = usage_object(usage, cost)
            del counted["completion_tokens"]
            body["usage"] = counted
        return encode(body)


def packed(vector: Sequence[float]) -> str:
    """Base64 of little-endian 32-bit floats: what OpenAI's SDK asks for unless told otherwise."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
