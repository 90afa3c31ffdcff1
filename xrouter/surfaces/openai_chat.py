"""`POST chat/completions`: OpenAI's shapes with OpenRouter's additions, as strict as OpenRouter's own SDK reads them."""

from collections.abc import Sequence
from typing import Any, Final, cast

from xrouter.context import Call, Cost
from xrouter.errors import XRouterError
from xrouter.events import Answer, Event, Finish, ReasoningText, Text, TextRun, ToolCallPart, Usage, Verbatim
from xrouter.surfaces.base import AnswerHead, Renderer, encode, usage_object
from xrouter.surfaces.splice import Splicer
from xrouter.surfaces.sse_out import DONE, error_event, event, text_events
from xrouter.wire import ChatRequest

CHUNK = "chat.completion.chunk"


def wants_usage(call: Call, head: AnswerHead) -> bool:
    """Whether a stream ends with a usage chunk: OpenRouter's always do, OpenAI's if asked, in either's words."""
    if head.always_usage:
        return True
    options, openrouter = call.body.get("stream_options"), call.body.get("usage")
    if isinstance(options, dict) and isinstance(asked := options.get("include_usage"), bool):
        return asked
    return isinstance(openrouter, dict) and openrouter.get("include") is True


def legacy_functions(call: Call) -> bool:
    """Whether the client speaks the older `functions` form and expects `function_call` in the answer."""
    request = call.request
    return isinstance(request, ChatRequest) and request.functions is not None and request.tools is None


def hides_reasoning(call: Call) -> bool:
    request = call.request
    return isinstance(request, ChatRequest) and request.reasoning is not None and bool(request.reasoning.exclude)


_REASONING: Final = ("reasoning", "reasoning_content", "reasoning_details")


def _without_reasoning(chunk: Verbatim) -> Verbatim:
    """OpenRouter's `reasoning.exclude`: the model reasons and the client is not shown it."""
    choices = chunk.body.get("choices") or ()
    body = {**chunk.body, "choices": [_silent(choice, "delta") for choice in choices]}
    return Verbatim(encode(body), body)


def _silent(choice: dict[str, Any], key: str) -> dict[str, Any]:
    said = choice.get(key) or {}
    return {**choice, key: {name: value for name, value in said.items() if name not in _REASONING}}


def _opened(head: AnswerHead) -> bytes:
    """The beginning of a chunk's JSON, without a comma."""
    chunk = {"id": head.id, "object": CHUNK, "created": head.created, "model": head.model, "provider": head.provider}
    return encode(chunk)[:-1]


class ChatStream(Renderer):
    streams = True

    def __init__(self, head: AnswerHead, call: Call) -> None:
        super().__init__(head, call)
        self._splicer = Splicer(head)
        self._legacy = legacy_functions(call)
        self._hide_reasoning = hides_reasoning(call)
        self._head_json = _opened(head)
        self._before = b"data: " + self._head_json + b',"choices":[{"index":0,"delta":'
        self._begun = False
        self._verbatim = False

    def feed(self, events: Sequence[Event]) -> bytes:
        pieces: list[bytes] = []
        for part in events:
            if isinstance(part, TextRun):
                pieces.append(self._run(part))
                continue
            if isinstance(part, Verbatim):
                self._verbatim = True
                if self._hide_reasoning and b'"reasoning' in part.data:
                    part = _without_reasoning(part)
                pieces.append(event(self._splicer.chunk(part)))
                continue
            if not self._begun and not self._verbatim:
                pieces.append(self._opening())
            match part:
                case Text(content):
                    pieces.append(self._delta({"content": content}))
                case ReasoningText(content):
                    if not self._hide_reasoning:
                        pieces.append(self._delta({"reasoning": content, "reasoning_content": content}))
                case ToolCallPart():
                    pieces.append(self._delta(self._tool_call(part)))
                case Finish(reason, native):
                    if not self._verbatim:
                        pieces.append(self._finish(reason, native))
                case Answer(body):
                    pieces.append(self._from_whole(body))
        return b"".join(pieces)

    def end(self, usage: Usage | None, cost: Cost | None) -> bytes:
        if usage is None or not wants_usage(self.call, self.head):
            return DONE
        counted = encode(usage_object(usage, cost))
        head_json = _opened(self._splicer.head) if self._verbatim else self._head_json
        return b'data: %b,"choices":[],"usage":%b}\n\n%b' % (head_json, counted, DONE)

    def failed(self, error: XRouterError) -> bytes:
        return error_event(self._splicer.head, CHUNK, error, {"delta": {"content": ""}})

    def _opening(self) -> bytes:
        self._begun = True
        return self._delta({"role": "assistant", "content": ""})

    def _run(self, run: TextRun) -> bytes:
        if run.before:
            self._verbatim = True
            if self._hide_reasoning and (b'"reasoning' in run.before or b'"reasoning' in run.after):
                return self.feed(run.chunks())
            return self._splicer.run(run)
        before, after = self._before[len(b"data: ") :] + b'{"content":"', b'"},"finish_reason":null}]}'
        opening = b"" if self._begun else self._opening()
        return opening + text_events(run, before, after)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._before + encode(delta) + b',"finish_reason":null}]}\n\n'

    def _finish(self, reason: str, native: str) -> bytes:
        if self._legacy and reason == "tool_calls":
            reason = "function_call"
        return b'%b{},"finish_reason":%b,"native_finish_reason":%b}]}\n\n' % (
            self._before,
            encode(reason),
            encode(native),
        )

    def _tool_call(self, part: ToolCallPart) -> dict[str, Any]:
        function: dict[str, Any] = {"arguments": part.arguments}
        if part.name is not None:
            function = {"name": part.name, **function}
        if self._legacy:
            return {"function_call": function}
        call: dict[str, Any] = {"index": part.index, "function": function}
        if part.id is not None:
            call = {"index": part.index, "id": part.id, "type": "function", "function": function}
        return {"tool_calls": [call]}

    def _from_whole(self, body: dict[str, Any]) -> bytes:
        """A whole answer from an upstream that was asked for a stream, given as the chunks it could have been."""
        pieces = []
        for choice in body.get("choices") or ():
            message = {key: value for key, value in (choice.get("message") or {}).items() if value is not None}
            for index, call in enumerate(message.get("tool_calls") or ()):
                call.setdefault("index", index)
            place = {"index": choice.get("index", 0), "delta": message, "finish_reason": choice.get("finish_reason")}
            pieces.append(b'data: %b,"choices":[%b]}\n\n' % (self._head_json, encode(place)))
        self._verbatim = True
        return b"".join(pieces)


class ChatAnswer(Renderer):
    streams = False

    def __init__(self, head: AnswerHead, call: Call) -> None:
        super().__init__(head, call)
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._finish: Finish | None = None
        self._whole: dict[str, Any] | None = None

    def feed(self, events: Sequence[Event]) -> bytes:
        for part in events:
            if isinstance(part, Answer):
                self._whole = part.body
            elif isinstance(part, Finish):
                self._finish = part
            elif isinstance(part, Text):
                self._text.append(part.content)
            elif isinstance(part, ReasoningText):
                self._reasoning.append(part.content)
            elif isinstance(part, ToolCallPart):
                self._add_call(part)
        return b""

    def end(self, usage: Usage | None, cost: Cost | None) -> bytes:
        head = self.head
        body = self._whole
        if body is None:
            body = {"object": "chat.completion", "created": head.created, "choices": [self._choice()]}
        body = {**body, "id": head.id, "model": head.model, "provider": head.provider}
        body.setdefault("object", "chat.completion")
        body.setdefault("created", head.created)
        body.setdefault("system_fingerprint", None)
        if hides_reasoning(self.call):
            body["choices"] = [_silent(choice, "message") for choice in body["choices"]]
        for choice in body["choices"]:
            choice.setdefault("finish_reason", None)
        if usage is not None:
            body["usage"] = usage_object(usage, cost)
        else:
            body.pop("usage", None)
        return encode(body)

    def _add_call(self, part: ToolCallPart) -> None:
        call = self._calls.setdefault(part.index, {"id": "", "type": "function", "name": "", "arguments": ""})
        call["id"] = part.id or call["id"]
        call["name"] = part.name or call["name"]
        call["arguments"] += part.arguments

    def _choice(self) -> dict[str, Any]:
        text = "".join(self._text)
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if self._calls else "")}
        if self._reasoning and not hides_reasoning(self.call):
            message["reasoning"] = message["reasoning_content"] = "".join(self._reasoning)
        calls = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for _, call in sorted(self._calls.items())
        ]
        legacy = legacy_functions(self.call)
        finish = self._finish or Finish("stop", "")
        reason: str = finish.reason
        if calls and legacy:
            message["function_call"] = cast(dict[str, Any], calls[0]["function"])
            reason = "function_call" if reason == "tool_calls" else reason
        elif calls:
            message["tool_calls"] = calls
        return {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": reason,
            "native_finish_reason": finish.native or None,
        }
