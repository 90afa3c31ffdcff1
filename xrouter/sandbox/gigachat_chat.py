"""POST /v1/chat/completions of GigaChat (gigachat.md sections 3 to 5 and 9)."""

import hashlib
import uuid
from typing import Any

import msgspec

from xrouter.sandbox import tokens
from xrouter.sandbox.assistant import REFUSAL, Function, Generation, Prompt, Turn, generate, grouped
from xrouter.sandbox.endpoint import Incoming
from xrouter.sandbox.gigachat_dialect import authorised, refuse
from xrouter.sandbox.gigachat_models import Model
from xrouter.sandbox.gigachat_wire import ChatRequest, NamedFunction, read_chat
from xrouter.sandbox.reply import SSE_DONE, Reply, json_reply, sse, stream_reply
from xrouter.sandbox.scenario import Scenario
from xrouter.sandbox.state import CachedPrompt, SandboxState, Token

_TOKENS_PER_EVENT = 3
_FINISH = {"stop": "stop", "length": "length", "tool_calls": "function_call", "filter": "blacklist", "error": "error"}
_MAX_CACHED_PROMPTS = 1000


async def chat_completions(incoming: Incoming) -> Reply:
    state, scenario = incoming.state, incoming.scenario
    token = authorised(state, incoming.headers)
    request, model = read_chat(state, incoming.body)
    enter_generation(incoming, token)
    _check_attachments(state, token, request)
    _check_package(state, token, model)
    sizes = _prompt_sizes(request)
    prompt_tokens = sum(size for _, size in sizes) + tokens.GIGACHAT_TEMPLATE_TOKENS
    if prompt_tokens > model.context:
        raise refuse(413)
    generation = generate(_prompt(request), scenario, tokens_per_frame=_TOKENS_PER_EVENT if request.stream else 0)
    output_tokens = generation.output_tokens
    cached = _cached_tokens(state, token, incoming.header("x-session-id"), sizes)
    usage = {
        "prompt_tokens": prompt_tokens - cached,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens - cached + output_tokens,
        "precached_prompt_tokens": cached,
    }
    spend(state, token, model, usage["total_tokens"])
    answer = _Answer(model, int(state.now()), scenario, generation, usage, hashlib.blake2b(incoming.body).digest())
    return answer.stream() if request.stream else answer.whole()


def enter_generation(incoming: Incoming, token: Token) -> None:
    """Take one of the holder's places until the answer is written. Raises Refusal 429 if all are taken."""
    config = incoming.state.config
    limit = config.pers_concurrency if token.scope == "GIGACHAT_API_PERS" else config.company_concurrency
    if not incoming.stack.enter_context(incoming.state.generation(f"gigachat {token.holder}", limit)):
        raise refuse(429)


def spend(state: SandboxState, token: Token, model: Model, spent: int) -> None:
    if state.config.package_tokens is not None and token.scope != "GIGACHAT_API_CORP":
        key = (token.holder, model.id)
        state.packages[key] = max(0, state.packages.get(key, state.config.package_tokens) - spent)


def _check_package(state: SandboxState, token: Token, model: Model) -> None:
    whole = state.config.package_tokens
    if whole is None or token.scope == "GIGACHAT_API_CORP":
        return
    if state.packages.get((token.holder, model.id), whole) <= 0:
        raise refuse(402)


def _check_attachments(state: SandboxState, token: Token, request: ChatRequest) -> None:
    images = 0
    for message in request.messages:
        in_message = 0
        for file_id in message.attachments or ():
            stored = state.files.get(file_id)
            if stored is None or stored.holder != token.holder:
                raise refuse(404, "No such file")
            in_message += stored.content_type.startswith("image/")
        images += in_message
        if in_message > 1 or images > 10:
            raise refuse(422, "Invalid params: too many images: one in a message, ten in a request")


def _prompt(request: ChatRequest) -> Prompt:
    roles = {"function": "tool", "search_result": "tool"}
    turns = [
        Turn(roles.get(each.role, each.role), each.content, each.name or "", len(each.attachments or ()))
        for each in request.messages
    ]
    functions = [Function(each.name, each.description or "", each.parameters or {}) for each in request.functions or ()]
    chosen = request.function_call
    schema = request.response_format.schema if request.response_format else None
    return Prompt(
        turns,
        functions,
        choice=f"={chosen.name}" if isinstance(chosen, NamedFunction) else chosen or "auto",
        schema=schema,
        max_tokens=request.max_tokens,
        reasoning=request.reasoning_effort is not None,
    )


def _prompt_sizes(request: ChatRequest) -> list[tuple[bytes, int]]:
    """A digest and the tokens of what the model reads: the functions, then each message."""
    texts = [msgspec.json.encode(request.functions).decode()] if request.functions else []
    for message in request.messages:
        call = message.function_call
        called = call.name + msgspec.json.encode(call.arguments).decode() if call else ""
        texts.append(message.content + called)
    return [(hashlib.blake2b(text.encode(), digest_size=8).digest(), tokens.count(text)) for text in texts]


def _cached_tokens(state: SandboxState, token: Token, session: str, sizes: list[tuple[bytes, int]]) -> int:
    """How much of the prompt the session's cache holds, which then holds this prompt for its life anew.

    Section 9: the cache is by prefix, X-Session-ID pins it, it lives about 30 s after the last hit.
    """
    if not session:
        return 0
    now = state.now()
    key = f"{token.holder} {session}"
    before = state.prompts.get(key)
    cached = 0
    if before is not None and before.expires_at > now:
        for (old, size), (new, _) in zip(before.messages, sizes, strict=False):
            if old != new:
                break
            cached += size
    if len(state.prompts) > _MAX_CACHED_PROMPTS:
        state.prompts = {name: each for name, each in state.prompts.items() if each.expires_at > now}
    state.prompts[key] = CachedPrompt(sizes, now + state.config.prompt_cache_s)
    return cached


class _Answer:
    """One generation in GigaChat's shapes."""

    def __init__(
        self, model: Model, created: int, scenario: Scenario, generation: Generation, usage: dict[str, int], seed: bytes
    ) -> None:
        self._envelope: dict[str, Any] = {"created": created, "model": model.echoed, "object": "chat.completion"}
        self._scenario = scenario
        self._generation = generation
        self._usage = usage
        finish = _FINISH[generation.finish]
        self._finish = finish.upper() if scenario.upper else finish
        self._state_id = str(uuid.UUID(bytes=seed[:16], version=4))

    def _call(self) -> dict[str, Any]:
        call = self._generation.calls[0]
        return {
            "function_call": {"name": call.name, "arguments": call.arguments},
            "functions_state_id": self._state_id,
        }

    def whole(self) -> Reply:
        generation = self._generation
        message: dict[str, Any] = {"content": generation.text, "role": "assistant"}
        if generation.reasoning:
            message["reasoning_content"] = generation.reasoning_text
        if generation.finish == "filter":
            message["content"] = REFUSAL
        if generation.calls:
            message |= self._call()
        choice: dict[str, Any] = {"message": message, "index": 0}
        if not self._scenario.no_finish:
            choice["finish_reason"] = self._finish
        body = {"choices": [choice], **self._envelope}
        if not self._scenario.no_usage:
            body["usage"] = self._usage
        return json_reply(body)

    def stream(self) -> Reply:
        generation, scenario = self._generation, self._scenario
        deltas: list[dict[str, Any]] = [
            {"reasoning_content": piece} for piece in grouped(generation.reasoning, _TOKENS_PER_EVENT)
        ]
        pieces = grouped(generation.pieces, _TOKENS_PER_EVENT)
        if generation.finish == "filter":
            pieces.append(REFUSAL)
        deltas += [{"content": piece} for piece in pieces]
        if generation.calls:
            deltas.append({"content": "", **self._call()})
        if deltas:
            deltas[0]["role"] = "assistant"
        frames = [self._frame({"delta": delta, "index": 0}) for delta in deltas]
        if not scenario.no_finish:
            last: dict[str, Any] = {"delta": {"content": ""}, "index": 0, "finish_reason": self._finish}
            frames += [self._frame(last, {} if scenario.no_usage else {"usage": self._usage}), SSE_DONE]
        return stream_reply(frames)

    def _frame(self, choice: dict[str, Any], more: dict[str, Any] | None = None) -> bytes:
        return sse({"choices": [choice], **self._envelope, **(more or {})})
