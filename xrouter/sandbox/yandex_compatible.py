"""Yandex AI Studio's OpenAI-compatible surface (yandexgpt.md sections 9 and 13)."""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from xrouter.sandbox import tokens
from xrouter.sandbox.assistant import generate
from xrouter.sandbox.endpoint import Incoming
from xrouter.sandbox.openai_answer import ChatAnswer, Style, prompt_of, prompt_tokens
from xrouter.sandbox.openai_wire import ChatRequest, read_chat
from xrouter.sandbox.reply import Refusal, Reply, json_reply
from xrouter.sandbox.vectors import unit_vector
from xrouter.sandbox.yandex_dialect import COMPATIBLE, INVALID_ARGUMENT, authorised, check_rate
from xrouter.sandbox.yandex_models import Model, listed, resolve
from xrouter.sandbox.yandex_native import enter_generation
from xrouter.wire import decode_json

_TOKENS_PER_CHUNK = 2
_UNPARSABLE = "Failed to parse model URI"
_TOO_MANY_TOKENS = "number of input tokens must be no more than {}, got {}"

_MARKED_UNSUPPORTED = {"stop", "seed", "store", "stream_options", "web_search_options", "audio", "service_tier"}
_NOT_LISTED = {"top_p", "user", "metadata", "functions", "function_call", "modalities", "prediction", "verbosity"}
UNSUPPORTED = frozenset(_MARKED_UNSUPPORTED | _NOT_LISTED | {"safety_identifier", "prompt_cache_key"})
"""Fields that the reference does not support. Whether it refuses or ignores them is uncertain (section 17)."""


async def chat_completions(incoming: Incoming) -> Reply:
    state, scenario = incoming.state, incoming.scenario
    authorised(state, incoming.headers, COMPATIBLE)
    request = _read(incoming)
    addressed = resolve(state, request.model, "gpt", COMPATIBLE, _UNPARSABLE)
    model = addressed.model
    _check(request, model)
    enter_generation(incoming, COMPATIBLE)
    size = prompt_tokens(request)
    if size > model.context:
        raise COMPATIBLE.refuse(INVALID_ARGUMENT, _TOO_MANY_TOKENS.format(model.context, size))
    shown = _TOKENS_PER_CHUNK if request.stream else 0
    prompts = [prompt_of(request, variation) for variation in range(request.n or 1)]
    generations = [generate(prompt, scenario, tokens_per_frame=shown) for prompt in prompts]
    style = Style(
        usage_at_finish=True,
        logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs or 0,
        tokens_per_chunk=_TOKENS_PER_CHUNK,
    )
    answer = ChatAnswer(addressed.echoed, int(state.now()), incoming.body, generations, size, scenario, style)
    return answer.stream() if request.stream else answer.whole()


def _read(incoming: Incoming) -> ChatRequest:
    """The request, by OpenAI's rules and without the unsupported fields. Refusals are in OpenAI's shape here as well."""
    if incoming.state.config.refuse_unknown_fields:
        try:
            given = decode_json(incoming.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            given = None
        if isinstance(given, dict) and (unsupported := sorted(UNSUPPORTED & given.keys())):
            raise COMPATIBLE.refuse(INVALID_ARGUMENT, f"{unsupported[0]} is currently not supported")
    return read_chat(incoming.body, refuse_unknown=incoming.state.config.refuse_unknown_fields)


def _check(request: ChatRequest, model: Model) -> None:
    if not model.open_weight and request.temperature is not None and request.temperature > 1:
        raise COMPATIBLE.refuse(INVALID_ARGUMENT, "temperature must be in range [0, 1]")
    if not model.vision and any(message.images() for message in request.messages):
        raise COMPATIBLE.refuse(INVALID_ARGUMENT, f"{model.name} is not a multimodal model")
    if not model.open_weight and (request.n or 1) > 1:
        raise COMPATIBLE.refuse(INVALID_ARGUMENT, "n is not supported by the model")
    if not model.open_weight and request.logprobs:
        raise COMPATIBLE.refuse(INVALID_ARGUMENT, "logprobs is not supported by the model")
    for message in request.messages:
        if not message.text() and not message.images() and not message.tool_calls and message.role != "tool":
            raise COMPATIBLE.refuse(INVALID_ARGUMENT, "empty message text")


class EmbeddingRequest(Struct, forbid_unknown_fields=True):
    model: str
    input: str  # only a single string is documented
    encoding_format: Literal["float"] = "float"
    dimensions: int | None = None


async def embeddings(incoming: Incoming) -> Reply:
    state = incoming.state
    authorised(state, incoming.headers, COMPATIBLE)
    check_rate(state, "textEmbedding", state.config.embeddings_per_s, COMPATIBLE)
    try:
        request = msgspec.json.decode(incoming.body, type=EmbeddingRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise COMPATIBLE.refuse(INVALID_ARGUMENT, f"invalid request: {problem}") from None
    model = resolve(state, request.model, "emb", COMPATIBLE, _UNPARSABLE).model
    size = request.dimensions or model.dimensions[0]
    if size not in model.dimensions:
        raise COMPATIBLE.refuse(INVALID_ARGUMENT, f"dimensions {size} is not supported by the model")
    used = tokens.count(request.input) + 1
    if not request.input:
        raise COMPATIBLE.refuse(INVALID_ARGUMENT, "empty text")
    if used > model.context:
        raise COMPATIBLE.refuse(INVALID_ARGUMENT, _TOO_MANY_TOKENS.format(model.context, used))
    row: dict[str, Any] = {"object": "embedding", "index": 0, "embedding": unit_vector(request.input, model.name, size)}
    usage = {"prompt_tokens": used, "total_tokens": used}
    return json_reply({"object": "list", "data": [row], "model": request.model, "usage": usage})


async def list_models(incoming: Incoming) -> Reply:
    authorised(incoming.state, incoming.headers, COMPATIBLE)
    return json_reply({"object": "list", "data": listed(incoming.state.config.folder)})


async def not_found(incoming: Incoming) -> Reply:
    """Section 14, shape 3: plain text from the front for a path that is not there."""
    raise Refusal(Reply(404, (b"404 page not found\n",), "text/plain; charset=utf-8"))
