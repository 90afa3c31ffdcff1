"""A generation in the shapes of OpenAI's chat completions, whole and streamed.

Also for Yandex's compatible surface, whose habits (upper-case finish reasons, usage in odd places) are options here.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from xrouter.sandbox import tokens
from xrouter.sandbox.assistant import REFUSAL, Function, Generation, Prompt, Turn
from xrouter.sandbox.openai_wire import ChatRequest, NamedFunction, ToolChoice
from xrouter.sandbox.reply import SSE_DONE, Reply, json_reply, sse, stream_reply
from xrouter.sandbox.scenario import Scenario

_FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "filter": "content_filter", "error": "stop"}
_ANY_JSON: dict[str, Any] = {"type": "object", "properties": {"answer": {"type": "string"}}}
_ARGUMENT_CHARACTERS = 12  # of a function's arguments in one chunk


def prompt_of(request: ChatRequest, variation: int = 0) -> Prompt:
    names = {call.id: call.function.name for message in request.messages for call in message.tool_calls or ()}
    turns = []
    for message in request.messages:
        role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
        name = message.name or names.get(message.tool_call_id or "", "")
        turns.append(Turn(role, message.text(), name, message.images()))
    specs = [tool.function for tool in request.tools or ()] or request.functions or []
    functions = [Function(each.name, each.description or "", each.parameters or {}) for each in specs]
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    wanted = request.response_format
    schema = None
    if wanted is not None and wanted.type == "json_schema":
        schema = wanted.json_schema.schema if wanted.json_schema else None
    elif wanted is not None and wanted.type == "json_object":
        schema = _ANY_JSON
    return Prompt(
        turns,
        functions,
        _choice(request),
        parallel=request.parallel_tool_calls is not False and request.tools is not None,
        schema=schema,
        max_tokens=request.output_cap(),
        stop=stop,
        reasoning=request.reasoning_effort not in (None, "none"),
        variation=variation,
    )


def _choice(request: ChatRequest) -> str:
    chosen = request.tool_choice if request.tools is not None else request.function_call
    if isinstance(chosen, NamedFunction):
        return f"={chosen.name}"
    if isinstance(chosen, ToolChoice):
        if chosen.function is not None:
            return f"={chosen.function.name}"
        return str((chosen.allowed_tools or {}).get("mode", "auto"))
    return chosen or "auto"


def prompt_tokens(request: ChatRequest) -> int:
    """OpenAI's published rule: three tokens a message, three for the reply; tools by their JSON."""
    size = tokens.OPENAI_REPLY_TOKENS
    for message in request.messages:
        called = msgspec.json.encode(message.tool_calls).decode() if message.tool_calls else ""
        size += tokens.OPENAI_MESSAGE_TOKENS + tokens.count(message.text()) + tokens.count(called)
    if specs := [tool.function for tool in request.tools or ()] or request.functions:
        size += tokens.count(msgspec.json.encode(specs).decode())
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What differs between servers of this protocol."""

    usage_chunk: bool = False  # usage in a chunk of its own, without choices
    usage_at_finish: bool = False  # usage in the finishing chunk
    null_usage: bool = False  # `usage: null` in all the other chunks
    logprobs: bool = False
    top_logprobs: int = 0
    legacy_call: bool = False  # function_call, as `functions` in the request asks
    tokens_per_chunk: int = 1


class ChatAnswer:
    def __init__(
        self,
        model: str,
        created: int,
        body: bytes,
        generations: Sequence[Generation],
        input_tokens: int,
        scenario: Scenario,
        style: Style,
    ) -> None:
        self._seed = hashlib.blake2b(body, digest_size=16).hexdigest()
        self._id = f"chatcmpl-{self._seed[:29]}"
        self._model, self._created = model, created
        self._generations = generations
        self._scenario = scenario
        self._style = style
        output = sum(each.output_tokens for each in generations)
        self.usage = {
            "prompt_tokens": input_tokens,
            "completion_tokens": output,
            "total_tokens": input_tokens + output,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": sum(len(each.reasoning) for each in generations)},
        }

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": "fp_sandbox",
        }

    def _finish(self, generation: Generation) -> str:
        finish = _FINISH[generation.finish]
        if finish == "tool_calls" and self._style.legacy_call:
            finish = "function_call"
        return finish.upper() if self._scenario.upper else finish

    def _calls(self, generation: Generation, choice: int) -> list[dict[str, Any]]:
        return [
            {
                "id": f"call_{self._seed[:20]}{choice:02d}{index:02d}",
                "type": "function",
                "function": {"name": call.name, "arguments": msgspec.json.encode(call.arguments).decode()},
            }
            for index, call in enumerate(generation.calls)
        ]

    def whole(self) -> Reply:
        choices = []
        for index, generation in enumerate(self._generations):
            message: dict[str, Any] = {"role": "assistant", "content": generation.text, "refusal": None}
            if generation.finish == "filter":
                message["content"] = REFUSAL
            if generation.reasoning:
                message["reasoning_content"] = generation.reasoning_text
            if calls := self._calls(generation, index):
                message["content"] = None
                if self._style.legacy_call:
                    message["function_call"] = calls[0]["function"]
                else:
                    message["tool_calls"] = calls
            choice: dict[str, Any] = {"index": index, "message": message, "logprobs": None}
            if self._style.logprobs:
                choice["logprobs"] = {"content": self._logprobs(generation.pieces), "refusal": None}
            if not self._scenario.no_finish:
                choice["finish_reason"] = self._finish(generation)
            choices.append(choice)
        body = {**self._envelope("chat.completion"), "choices": choices}
        if not self._scenario.no_usage:
            body["usage"] = self.usage
        return json_reply(body)

    def stream(self) -> Reply:
        envelope = self._envelope("chat.completion.chunk")
        if self._style.null_usage:
            envelope["usage"] = None
        frames: list[bytes] = []
        for index, generation in enumerate(self._generations):
            for choice in self._choices(index, generation):
                frames.append(sse({**envelope, "choices": [choice]}))  # noqa: PERF401  two loops read better
        if self._scenario.no_finish:
            return stream_reply(frames)
        usage = not self._scenario.no_usage
        for index, generation in enumerate(self._generations):
            finished = {"index": index, "delta": {}, "logprobs": None, "finish_reason": self._finish(generation)}
            last = index == len(self._generations) - 1
            at_finish = usage and last and self._style.usage_at_finish and not self._scenario.empty_choices
            frames.append(sse({**envelope, "choices": [finished], **({"usage": self.usage} if at_finish else {})}))
        if usage and (self._style.usage_chunk or self._scenario.empty_choices):
            frames.append(sse({**envelope, "choices": [], "usage": self.usage}))
        frames.append(SSE_DONE)
        return stream_reply(frames)

    def _choices(self, index: int, generation: Generation) -> list[dict[str, Any]]:
        """The chunks of one choice, without the finishing one."""
        choices: list[dict[str, Any]] = []

        def add(delta: dict[str, Any], pieces: Sequence[str] = ()) -> None:
            logprobs = {"content": self._logprobs(pieces), "refusal": None} if self._style.logprobs and pieces else None
            choices.append({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None})

        add({"role": "assistant", "content": None if generation.calls else "", "refusal": None})
        for piece in generation.reasoning:
            add({"reasoning_content": piece})
        size = self._style.tokens_per_chunk
        for at in range(0, len(generation.pieces), size):
            pieces = generation.pieces[at : at + size]
            add({"content": "".join(pieces)}, pieces)
        if generation.finish == "filter":
            add({"content": REFUSAL})
        for number, call in enumerate(self._calls(generation, index)):
            function = call["function"]
            arguments = function["arguments"]
            if self._style.legacy_call:
                add({"function_call": {"name": function["name"], "arguments": ""}})
            else:
                add(
                    {"tool_calls": [{"index": number, **call, "function": {"name": function["name"], "arguments": ""}}]}
                )
            for at in range(0, len(arguments), _ARGUMENT_CHARACTERS):
                more = {"arguments": arguments[at : at + _ARGUMENT_CHARACTERS]}
                if self._style.legacy_call:
                    add({"function_call": more})
                else:
                    add({"tool_calls": [{"index": number, "function": more}]})
        return choices

    def _logprobs(self, pieces: Sequence[str]) -> list[dict[str, Any]]:
        def one(token: str, probability: float) -> dict[str, Any]:
            data = list(token.encode("utf-8", "surrogatepass"))
            return {"token": token, "logprob": round(math.log(probability), 6), "bytes": data}

        described = []
        for piece in pieces:
            chance = 0.5 + tokens.token_id(piece) % 50 / 100
            others = [(piece, chance), *((f"{piece}{rank}", (1 - chance) / 2**rank) for rank in range(1, 20))]
            top = [one(token, probability) for token, probability in others[: self._style.top_logprobs]]
            described.append({**one(piece, chance), "top_logprobs": top})
        return described
