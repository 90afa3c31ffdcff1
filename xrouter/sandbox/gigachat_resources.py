"""GigaChat's models, embeddings, token counts and balance (gigachat.md sections 8 to 10)."""

from typing import Any

import msgspec
from msgspec import Struct

from xrouter.sandbox import tokens
from xrouter.sandbox.endpoint import Incoming
from xrouter.sandbox.gigachat_chat import enter_generation, spend
from xrouter.sandbox.gigachat_dialect import INVALID_JSON, NO_SUCH_MODEL, authorised, invalid, refuse
from xrouter.sandbox.gigachat_models import MODELS
from xrouter.sandbox.reply import Reply, json_reply
from xrouter.sandbox.vectors import vector

_LARGEST_VALUE = 1.8  # section 10: values are not of unit length, seen up to ±1.8


class EmbeddingRequest(Struct, forbid_unknown_fields=True):
    model: str
    input: str | list[str]


class CountRequest(Struct, forbid_unknown_fields=True):
    model: str
    input: str | list[str]


def _decoded(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise refuse(400, INVALID_JSON) from None


async def list_models(incoming: Incoming) -> Reply:
    authorised(incoming.state, incoming.headers)
    return json_reply({"object": "list", "data": [model.listed() for model in MODELS.values()]})


async def one_model(incoming: Incoming) -> Reply:
    authorised(incoming.state, incoming.headers)
    model = MODELS.get(incoming.params["id"])
    if model is None:
        raise refuse(404, NO_SUCH_MODEL)
    return json_reply(model.listed())


async def embeddings(incoming: Incoming) -> Reply:
    state = incoming.state
    token = authorised(state, incoming.headers)
    request: EmbeddingRequest = _decoded(incoming.body, EmbeddingRequest)
    model = MODELS.get(request.model)
    if model is None or model.type != "embedder":
        raise refuse(404, NO_SUCH_MODEL)
    inputs = [request.input] if isinstance(request.input, str) else request.input
    if not inputs:
        raise invalid("input must not be empty")
    enter_generation(incoming, token)
    sizes = [tokens.count(text) for text in inputs]
    if max(sizes) > model.context:
        raise refuse(413)
    spend(state, token, model, sum(sizes))
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": vector(text, model.id, model.dimensions, scale=_LARGEST_VALUE),
            "usage": {"prompt_tokens": size},
        }
        for index, (text, size) in enumerate(zip(inputs, sizes, strict=True))
    ]
    return json_reply({"object": "list", "model": model.id, "data": data})


async def count_tokens(incoming: Incoming) -> Reply:
    """A bare array; raw strings only, so a chat's prompt is `tokens.GIGACHAT_TEMPLATE_TOKENS` more."""
    authorised(incoming.state, incoming.headers)
    request: CountRequest = _decoded(incoming.body, CountRequest)
    if request.model not in MODELS:
        raise refuse(404, NO_SUCH_MODEL)
    inputs = [request.input] if isinstance(request.input, str) else request.input
    counts = [{"object": "tokens", "tokens": tokens.count(text), "characters": len(text)} for text in inputs]
    return json_reply(counts)


async def balance(incoming: Incoming) -> Reply:
    state = incoming.state
    token = authorised(state, incoming.headers)
    if token.scope == "GIGACHAT_API_CORP":  # pay as you go
        raise refuse(403)
    whole = 1_000_000 if state.config.package_tokens is None else state.config.package_tokens
    rows = [
        {"usage": model.id, "value": state.packages.get((token.holder, model.id), whole)}
        for model in MODELS.values()
        if model.type in ("chat", "embedder") and not model.id.endswith("-preview")
    ]
    return json_reply({"balance": rows})
