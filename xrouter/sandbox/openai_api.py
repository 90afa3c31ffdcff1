"""The emulated OpenAI API: chat completions, completions, embeddings, models."""

import base64
import hashlib
import struct
from dataclasses import dataclass
from typing import Any

from xrouter.sandbox import tokens
from xrouter.sandbox.assistant import Generation, Prompt, Turn, generate
from xrouter.sandbox.endpoint import Incoming
from xrouter.sandbox.openai_answer import ChatAnswer, Style, prompt_of, prompt_tokens
from xrouter.sandbox.openai_dialect import authorised, no_such_model, refuse
from xrouter.sandbox.openai_wire import CompletionRequest, EmbeddingRequest, decoded, read_chat
from xrouter.sandbox.reply import SSE_DONE, Reply, json_reply, sse, stream_reply
from xrouter.sandbox.vectors import unit_vector

_CREATED = 1_790_000_000


@dataclass(frozen=True, slots=True)
class Model:
    id: str
    context: int = 131_072
    dimensions: int = 0  # of an embedding model, the most

    def listed(self) -> dict[str, Any]:
        return {"id": self.id, "object": "model", "created": _CREATED, "owned_by": "xrouter-sandbox"}


MODELS = {
    model.id: model
    for model in (
        Model("sandbox-large"),
        Model("sandbox-small", context=8192),
        Model("text-embedding-sandbox", context=8192, dimensions=1536),
    )
}


async def chat_completions(incoming: Incoming) -> Reply:
    state, scenario = incoming.state, incoming.scenario
    authorised(incoming.headers)
    request = read_chat(incoming.body, refuse_unknown=state.config.refuse_unknown_fields)
    model = _chat_model(request.model)
    _enter_generation(incoming)
    size = prompt_tokens(request)
    _check_size(size, request.output_cap(), model)
    shown = 1 if request.stream else 0
    prompts = [prompt_of(request, variation) for variation in range(request.n or 1)]
    generations = [generate(prompt, scenario, tokens_per_frame=shown) for prompt in prompts]
    style = Style(
        usage_chunk=_wants_usage(request.stream_options),
        null_usage=_wants_usage(request.stream_options),
        logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs or 0,
        legacy_call=request.functions is not None,
    )
    answer = ChatAnswer(model.id, int(state.now()), incoming.body, generations, size, scenario, style)
    return answer.stream() if request.stream else answer.whole()


def _wants_usage(options: Any) -> bool:
    return options is not None and bool(options.include_usage)


def _chat_model(name: str) -> Model:
    model = MODELS.get(name)
    if model is None:
        raise no_such_model(name)
    if model.dimensions:
        raise refuse(400, f"This is not a chat model: {name}", "model")
    return model


def _enter_generation(incoming: Incoming) -> None:
    limit = incoming.state.config.openai_concurrency
    if not incoming.stack.enter_context(incoming.state.generation("openai", limit)):
        raise refuse(429, "Rate limit reached for requests", code="rate_limit_exceeded")


def _check_size(size: int, output_cap: int | None, model: Model) -> None:
    whole = size + (output_cap or 0)
    if whole > model.context:
        text = (
            f"This model's maximum context length is {model.context} tokens. However, you requested {whole} tokens "
            f"({size} in the messages, {output_cap or 0} in the completion). Please reduce the length of the messages."
        )
        raise refuse(400, text, "messages", "context_length_exceeded")


# Completions


async def completions(incoming: Incoming) -> Reply:
    state, scenario = incoming.state, incoming.scenario
    authorised(incoming.headers)
    strict = state.config.refuse_unknown_fields
    request: CompletionRequest = decoded(incoming.body, CompletionRequest, refuse_unknown=strict)
    model = _chat_model(request.model)
    if request.stream_options is not None and not request.stream:
        raise refuse(400, "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    if request.best_of is not None and request.best_of < (request.n or 1):
        raise refuse(400, "'best_of' must be at least 'n'.", "best_of")
    _enter_generation(incoming)
    prompts = _texts(request.prompt)
    size = sum(count for _, count in prompts)
    _check_size(size, request.max_tokens, model)
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    written: list[tuple[str, Generation]] = []
    for text, _ in prompts:
        for variation in range(request.n or 1):
            prompt = Prompt([Turn("user", text)], max_tokens=request.max_tokens, stop=stop, variation=variation)
            written.append((text if request.echo else "", generate(prompt, scenario)))
    output = sum(each.output_tokens for _, each in written)
    envelope: dict[str, Any] = {
        "id": f"cmpl-{hashlib.blake2b(incoming.body, digest_size=14).hexdigest()}",
        "object": "text_completion",
        "created": int(state.now()),
        "model": model.id,
    }
    usage = {"prompt_tokens": size, "completion_tokens": output, "total_tokens": size + output}
    if request.stream:
        return _completion_stream(envelope, written, usage if _wants_usage(request.stream_options) else None)
    choices = [
        {
            "index": index,
            "text": echo + generation.text,
            "logprobs": _completion_logprobs(generation) if request.logprobs is not None else None,
            "finish_reason": "length" if generation.finish == "length" else "stop",
        }
        for index, (echo, generation) in enumerate(written)
    ]
    return json_reply({**envelope, "choices": choices, "usage": usage})


def _completion_stream(
    envelope: dict[str, Any], written: list[tuple[str, Generation]], usage: dict[str, int] | None
) -> Reply:
    frames = []
    for index, (echo, generation) in enumerate(written):
        finish = "length" if generation.finish == "length" else "stop"
        pieces: list[tuple[str, str | None]] = [(piece, None) for piece in ([echo] if echo else [])]
        pieces += [(piece, None) for piece in generation.pieces]
        pieces.append(("", finish))
        for text, reason in pieces:
            choice = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
            frames.append(sse({**envelope, "choices": [choice]}))
    if usage is not None:
        frames.append(sse({**envelope, "choices": [], "usage": usage}))
    return stream_reply([*frames, SSE_DONE])


def _completion_logprobs(generation: Generation) -> dict[str, Any]:
    offsets, at = [], 0
    for piece in generation.pieces:
        offsets.append(at)
        at += len(piece)
    chances = [-(tokens.token_id(piece) % 50) / 100 for piece in generation.pieces]
    return {
        "tokens": list(generation.pieces),
        "token_logprobs": chances,
        "top_logprobs": [{piece: chance} for piece, chance in zip(generation.pieces, chances, strict=True)],
        "text_offset": offsets,
    }


def _texts(given: str | list[str | int | list[int]]) -> list[tuple[str, int]]:
    """Each text and its tokens. Tokens given as numbers are a text too: their numbers."""
    if isinstance(given, str):
        return [(given, tokens.count(given))]
    numbers = [each for each in given if isinstance(each, int)]
    if numbers:
        if len(numbers) < len(given):
            raise refuse(400, "A list of input must hold strings, or numbers, or lists of numbers.", "input")
        return [(" ".join(map(str, numbers)), len(numbers))]
    texts: list[tuple[str, int]] = []
    for each in given:
        if isinstance(each, str):
            texts.append((each, tokens.count(each)))
        elif isinstance(each, list):
            texts.append((" ".join(map(str, each)), len(each)))
    return texts


# Embeddings and models


async def embeddings(incoming: Incoming) -> Reply:
    authorised(incoming.headers)
    strict = incoming.state.config.refuse_unknown_fields
    request: EmbeddingRequest = decoded(incoming.body, EmbeddingRequest, refuse_unknown=strict)
    model = MODELS.get(request.model)
    if model is None:
        raise no_such_model(request.model)
    if not model.dimensions:
        raise refuse(403, f"You are not allowed to generate embeddings from this model: {request.model}", "model")
    size = request.dimensions or model.dimensions
    if size > model.dimensions:
        raise refuse(400, f"Invalid value for 'dimensions': must be at most {model.dimensions}.", "dimensions")
    texts = _texts(request.input)
    if any(count == 0 for _, count in texts):
        raise refuse(400, "Invalid 'input': input cannot be an empty string.", "input")
    if any(count > model.context for _, count in texts):
        raise refuse(400, f"Invalid 'input': maximum context length is {model.context} tokens.", "input")
    data = []
    for index, (text, _) in enumerate(texts):
        vector: Any = unit_vector(text, model.id, size)
        if request.encoding_format == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    used = sum(count for _, count in texts)
    return json_reply(
        {"object": "list", "data": data, "model": model.id, "usage": {"prompt_tokens": used, "total_tokens": used}}
    )


async def list_models(incoming: Incoming) -> Reply:
    authorised(incoming.headers)
    return json_reply({"object": "list", "data": [model.listed() for model in MODELS.values()]})


async def one_model(incoming: Incoming) -> Reply:
    authorised(incoming.headers)
    model = MODELS.get(incoming.params["id"])
    if model is None:
        raise no_such_model(incoming.params["id"])
    return json_reply(model.listed())
