"""The native text generation of Yandex AI Studio: completion, completionAsync, tokenizers, embeddings, operations."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from xrouter.sandbox import tokens
from xrouter.sandbox.assistant import REFUSAL, Function, Generation, Prompt, Turn, generate, grouped
from xrouter.sandbox.endpoint import Incoming
from xrouter.sandbox.reply import JSON, Reply, json_reply, stream_reply
from xrouter.sandbox.scenario import Scenario
from xrouter.sandbox.state import Operation
from xrouter.sandbox.vectors import unit_vector
from xrouter.sandbox.yandex_dialect import (
    GENERATIONS_EXCEEDED,
    INVALID_ARGUMENT,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    STREAMING,
    UNARY,
    YandexDialect,
    authorised,
    check_rate,
)
from xrouter.sandbox.yandex_models import MODEL_VERSION, resolve
from xrouter.sandbox.yandex_wire import CompletionRequest, decoded, read_completion
from xrouter.wire import encode_json

_TOKENS_PER_LINE = 4
_TOO_MANY_TOKENS = "number of input tokens must be no more than {}, got {}"
_STATUS = {
    "stop": "ALTERNATIVE_STATUS_FINAL",
    "length": "ALTERNATIVE_STATUS_TRUNCATED_FINAL",
    "tool_calls": "ALTERNATIVE_STATUS_TOOL_CALLS",
    "filter": "ALTERNATIVE_STATUS_CONTENT_FILTER",
    "error": "ALTERNATIVE_STATUS_UNSPECIFIED",
}
_PARTIAL = "ALTERNATIVE_STATUS_PARTIAL"
_ANY_JSON: dict[str, Any] = {"type": "object", "properties": {"answer": {"type": "string"}}}


async def completion(incoming: Incoming) -> Reply:
    """POST /foundationModels/v1/completion (sections 3 to 5)."""
    state = incoming.state
    authorised(state, incoming.headers, STREAMING)
    request, addressed = read_completion(state, incoming.body, STREAMING)
    enter_generation(incoming, STREAMING)
    input_tokens = _check_size(request, addressed.model.context, STREAMING)
    streamed = request.completion_options.stream
    generation = generate(_prompt(request), incoming.scenario, tokens_per_frame=_TOKENS_PER_LINE if streamed else 0)
    answer = _Answer(generation, input_tokens, incoming.scenario)
    if streamed:
        return stream_reply(answer.lines(), JSON)
    return Reply(200, (answer.line(answer.final()),))


def enter_generation(incoming: Incoming, dialect: YandexDialect) -> None:
    """Take one of the folder's places until the answer is written. Raises Refusal 429 if all are taken."""
    config = incoming.state.config
    if not incoming.stack.enter_context(incoming.state.generation(f"yandex {config.folder}", config.generations)):
        raise dialect.refuse(RESOURCE_EXHAUSTED, GENERATIONS_EXCEEDED.format(config.generations))


def _check_size(request: CompletionRequest, context: int, dialect: YandexDialect) -> int:
    """The input's tokens. Raises Refusal 400 if they are more than the model's context."""
    size = len(_prompt_tokens(request))
    if size > context:
        raise dialect.refuse(INVALID_ARGUMENT, _TOO_MANY_TOKENS.format(context, size))
    return size


async def completion_async(incoming: Incoming) -> Reply:
    """POST /foundationModels/v1/completionAsync: an operation, whose answer is ready later (section 6)."""
    state = incoming.state
    authorised(state, incoming.headers, UNARY)
    check_rate(state, "textGenerationCompletionAsync", state.config.async_per_s, UNARY)
    request, addressed = read_completion(state, incoming.body, UNARY)
    if request.completion_options.stream:
        raise UNARY.refuse(INVALID_ARGUMENT, "stream is not supported in async mode")
    input_tokens = _check_size(request, addressed.model.context, UNARY)
    generation = generate(_prompt(request), incoming.scenario)
    result = _Answer(generation, input_tokens, incoming.scenario).final()
    kind = "type.googleapis.com/yandex.cloud.ai.foundation_models.v1.CompletionResponse"
    now = state.now()
    failed = incoming.scenario.error
    error = {"code": INVALID_ARGUMENT, "message": "the model failed", "details": []}
    operation = Operation(
        id="d7q" + state.unique_id("operation").hex[:17],
        description="Async GPT Completion",
        created_at=now,
        ready_at=now + state.config.operation_delay_s,
        response=b"" if failed else encode_json({"@type": kind, **result}),
        error=encode_json(error) if failed else b"",
    )
    state.operations[operation.id] = operation
    return json_reply(_described(operation, done=False))


async def operation(incoming: Incoming) -> Reply:
    """GET /operations/{id}."""
    state = incoming.state
    authorised(state, incoming.headers, UNARY)
    check_rate(state, "operationGet", state.config.operations_per_s, UNARY)
    found = state.operations.get(incoming.params["id"])
    now = state.now()
    if found is None or now > found.created_at + state.config.operation_kept_s:
        raise UNARY.refuse(NOT_FOUND, f"Operation {incoming.params['id']} not found")
    return json_reply(_described(found, done=now >= found.ready_at))


def _described(operation: Operation, *, done: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": operation.id,
        "description": operation.description,
        "createdAt": _rfc3339(operation.created_at),
        "createdBy": "ajesandbox",
        "modifiedAt": _rfc3339(operation.ready_at if done else operation.created_at),
        "done": done,
        "metadata": None,
    }
    if done and operation.response:
        described["response"] = msgspec.Raw(operation.response)
    elif done:
        described["error"] = msgspec.Raw(operation.error)
    return described


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Tokenizers


class TokenizeRequest(Struct, forbid_unknown_fields=True, rename="camel"):
    model_uri: str
    text: str


async def tokenize(incoming: Incoming) -> Reply:
    state = incoming.state
    authorised(state, incoming.headers, UNARY)
    check_rate(state, "textGenerationTokenize", state.config.tokenize_per_s, UNARY)
    request: TokenizeRequest = decoded(incoming.body, TokenizeRequest, UNARY)
    resolve(state, request.model_uri, "gpt", UNARY, "invalid model_uri")
    return _tokens_reply(["<s>", *tokens.split(request.text)])


async def tokenize_completion(incoming: Incoming) -> Reply:
    """The template's marks included: as many tokens as `inputTextTokens` of the completion."""
    state = incoming.state
    authorised(state, incoming.headers, UNARY)
    check_rate(state, "textGenerationTokenize", state.config.tokenize_per_s, UNARY)
    request, _ = read_completion(state, incoming.body, UNARY)
    return _tokens_reply(_prompt_tokens(request))


_MARK = re.compile(r"<s>|\[ROLE:\w+\]|\[NL\]|\[SEP\]")


def _tokens_reply(pieces: Sequence[str]) -> Reply:
    described = []
    for position, piece in enumerate(pieces):
        shown = "[NL]" if piece == "\n" else piece
        special = _MARK.fullmatch(shown) is not None
        if not special:
            shown = "▁" + shown[1:] if shown.startswith(" ") else "▁" + shown if position == 1 else shown
        described.append(
            {"id": "1" if piece == "<s>" else str(tokens.token_id(piece)), "text": shown, "special": special}
        )
    return json_reply({"tokens": described, "modelVersion": MODEL_VERSION})


def _prompt_tokens(request: CompletionRequest) -> list[str]:
    """What the model reads: the template's marks, the texts, the tools."""
    pieces = ["<s>"]
    if request.tools:
        pieces += tokens.split(encode_json(request.tools).decode())
    for message in request.messages:
        text = message.text
        if text is None:
            text = encode_json(message.tool_call_list or message.tool_result_list).decode()
        pieces += [f"[ROLE:{message.role}]", "[NL]", *tokens.split(text), "[SEP]"]
    return pieces


# Embeddings


class EmbeddingRequest(Struct, forbid_unknown_fields=True, rename="camel"):
    model_uri: str
    text: str
    dim: str | int | None = None


async def text_embedding(incoming: Incoming) -> Reply:
    """POST /foundationModels/v1/textEmbedding: one text a call (section 13)."""
    state = incoming.state
    authorised(state, incoming.headers, UNARY)
    check_rate(state, "textEmbedding", state.config.embeddings_per_s, UNARY)
    request: EmbeddingRequest = decoded(incoming.body, EmbeddingRequest, UNARY)
    model = resolve(state, request.model_uri, "emb", UNARY, "invalid model_uri").model
    if not request.text:
        raise UNARY.refuse(INVALID_ARGUMENT, "empty text")
    size = tokens.count(request.text) + 1
    if size > model.context:
        raise UNARY.refuse(INVALID_ARGUMENT, _TOO_MANY_TOKENS.format(model.context, size))
    wanted = str(request.dim or model.dimensions[0])
    if wanted not in map(str, model.dimensions):
        raise UNARY.refuse(INVALID_ARGUMENT, f"dim {wanted} is not supported by the model")
    vector = unit_vector(request.text, model.name, int(wanted))
    return json_reply({"embedding": vector, "numTokens": str(size), "modelVersion": MODEL_VERSION})


# The answer


def _prompt(request: CompletionRequest) -> Prompt:
    turns = []
    for message in request.messages:
        if message.tool_result_list is not None:
            results = [each.function_result for each in message.tool_result_list.tool_results]
            turns += [Turn("tool", each.content, each.name) for each in results]
        else:
            turns.append(Turn(message.role, message.text or ""))
    functions = [
        Function(each.function.name, each.function.description or "", each.function.parameters or {})
        for each in request.tools or ()
    ]
    chosen = request.tool_choice
    choice = "auto"
    if chosen is not None:
        choice = f"={chosen.function_name}" if chosen.function_name else (chosen.mode or "auto").lower()
    if choice.startswith("tool_choice_mode"):
        choice = "auto"
    schema = request.json_schema.schema if request.json_schema else _ANY_JSON if request.json_object else None
    reasoning = request.completion_options.reasoning_options
    return Prompt(
        turns,
        functions,
        choice,
        parallel=request.parallel_tool_calls is not False,
        schema=schema,
        max_tokens=request.max_tokens(),
        reasoning=reasoning is not None and reasoning.mode == "ENABLED_HIDDEN",
    )


class _Answer:
    """One generation in the native API's shapes: integers as strings, a stream that repeats the text from its start."""

    def __init__(self, generation: Generation, input_tokens: int, scenario: Scenario) -> None:
        self._generation = generation
        self._input_tokens = input_tokens
        self._scenario = scenario

    def final(self) -> dict[str, Any]:
        """The last, or only, result."""
        generation = self._generation
        text = REFUSAL if generation.finish == "filter" else generation.text
        status = _PARTIAL if self._scenario.no_finish else _STATUS[generation.finish]
        message: dict[str, Any] = {"role": "assistant"}
        if generation.calls:
            calls = [{"functionCall": {"name": each.name, "arguments": each.arguments}} for each in generation.calls]
            message["toolCallList"] = {"toolCalls": calls}
        elif text or not self._scenario.no_defaults:
            message["text"] = text
        return self._result(message, status, generation.output_tokens)

    def lines(self) -> list[bytes]:
        generation, scenario = self._generation, self._scenario
        pieces = grouped(generation.pieces, _TOKENS_PER_LINE)
        partial = pieces if generation.finish == "filter" else pieces[:-1]
        lines, text = [], ""
        for number, piece in enumerate(partial, 1):
            text += piece
            shown = f"{text[:-1]}… (" if scenario.rewrite and number == (len(partial) + 1) // 2 else text
            message = {"role": "assistant", "text": shown}
            lines.append(self.line(self._result(message, _PARTIAL, number * _TOKENS_PER_LINE)))
        lines.append(self.line(self.final()))
        return [line for line in lines for _ in range(2)] if scenario.repeat else lines

    def line(self, result: dict[str, Any]) -> bytes:
        line = encode_json({"result": result}) + b"\n"
        return b"data: " + line + b"\n" if self._scenario.sse else line

    def _result(self, message: dict[str, Any], status: str, output_tokens: int) -> dict[str, Any]:
        result: dict[str, Any] = {"alternatives": [{"message": message, "status": status}]}
        if not self._scenario.no_usage:
            usage: dict[str, Any] = {
                "inputTextTokens": str(self._input_tokens),
                "completionTokens": str(output_tokens),
                "totalTokens": str(self._input_tokens + output_tokens),
            }
            reasoning = len(self._generation.reasoning)
            if reasoning or not self._scenario.no_defaults:
                usage["completionTokensDetails"] = {"reasoningTokens": str(reasoning)}
            if self._scenario.no_defaults and not output_tokens:
                del usage["completionTokens"]
            result["usage"] = usage
        result["modelVersion"] = MODEL_VERSION
        return result
