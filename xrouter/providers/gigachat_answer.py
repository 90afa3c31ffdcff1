"""A chat answer of API v1, streamed or whole, as events: sections 4 and 5 of the sheet."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from xrouter.errors import UpstreamError, UpstreamProtocolError, XRouterError
from xrouter.events import Event, Finish, FinishReason, ReasoningText, ToolCallPart, Usage
from xrouter.providers.gigachat_calls import arguments_text, call_id
from xrouter.providers.gigachat_errors import ErrorReader
from xrouter.providers.gigachat_functions import FunctionNames
from xrouter.providers.gigachat_structured import StructuredAnswer
from xrouter.providers.gigachat_think import ThinkSplitter
from xrouter.providers.gigachat_wire import ReadCall, ReadChat, ReadChoice, ReadUsage
from xrouter.providers.sse import DONE
from xrouter.providers.stop import StopCutter
from xrouter.providers.text_runs import TextRuns
from xrouter.world import World

_MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_MOST_TOKENS: Final = 2**31
_FINISH: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "function_call": "tool_calls",
    "blacklist": "content_filter",
}
_MODEL_FAILED: Final = frozenset({"error", "function_call_error"})
_FILTER_SUFFIXES: Final = ("_blacklist", "_whitelist", "_filter")  # v2's words, which v1 may come to use
_decode = msgspec.json.Decoder(ReadChat).decode


class ChatReader:
    """Reads one answer. `structured`: the arguments of its call are its content (a forced function for a JSON answer)."""

    def __init__(
        self,
        names: FunctionNames,
        stop: Sequence[str],
        errors: ErrorReader,
        world: World,
        *,
        stream: bool,
        structured: bool,
    ) -> None:
        self.usage: Usage | None = None
        self.model: str | None = None
        self.done = False  # the stream's own end mark has come
        self._names = names
        self._errors = errors
        self._world = world
        self._runs = TextRuns(own=False) if stream else None
        self._body: list[bytes] = []
        self._body_size = 0
        self._think = ThinkSplitter()
        self._stop = StopCutter(stop) if stop else None
        self._structured = StructuredAnswer() if structured else None
        self._calls = 0
        self._state_id: str | None = None
        self._finished = False
        self._failure: XRouterError | None = None

    def feed(self, data: bytes) -> Sequence[Event]:
        if self._runs is None:
            self._collect(data)
            return ()
        events: list[Event] = []
        try:
            for part in self._runs.feed(data):
                if self.done:
                    continue
                if isinstance(part, bytes):
                    events += self._event(part)
                elif not self._finished:
                    events.append(part)
        except XRouterError as failure:
            if not events:
                raise
            self._failure = failure  # what came before it in the same piece is the client's; `finish` raises it
            self.done = True
        return events

    def finish(self) -> Sequence[Event]:
        """Raises UpstreamProtocolError if the answer did not reach its end."""
        if self._failure is not None:
            raise self._failure
        events: list[Event] = []
        if self._runs is None:
            events += self._read(b"".join(self._body))
        elif not self.done:
            for data in self._runs.finish():
                events += self._event(data)
        if not self._finished and not (self._stop and self._stop.cut):
            raise UpstreamProtocolError(
                "The upstream ended its answer early", detail="the answer ended without a finish_reason"
            )
        return events

    def _collect(self, data: bytes) -> None:
        self._body_size += len(data)
        if self._body_size > _MAX_ANSWER_BYTES:
            raise UpstreamProtocolError(
                "The upstream's answer is too long", detail=f"more than {_MAX_ANSWER_BYTES} bytes"
            )
        self._body.append(data)

    def _event(self, data: bytes) -> Iterable[Event]:
        if data == DONE:
            self.done = True
            return ()
        return self._read(data)

    def _read(self, data: bytes) -> Iterable[Event]:
        """The events of one JSON object: a whole answer or one event's data."""
        try:
            chat = _decode(data)
        except (ValueError, RecursionError) as error:
            raise UpstreamProtocolError(detail=f"{type(error).__name__}: {error}") from None
        if chat.usage is not None:
            self.usage = read_usage(chat.usage)
        if chat.model is not None:
            self.model = chat.model
        if chat.choices is None:
            if chat.status is not None or chat.message is not None:
                raise self._errors.inside(chat.status or 500, chat.message or "")
            return ()
        if self._finished:
            return ()
        events: list[Event] = []
        for choice in chat.choices:
            if choice.index == 0:
                self._choice(choice, events)
        if self._runs is not None and self._runs.wants and chat.usage is None and len(chat.choices) == 1:
            self._learn(data, chat.choices[0])
        if self._structured is not None:
            events = self._structured.apply(events)
        return events if self._stop is None else self._stop.apply(events)

    def _choice(self, choice: ReadChoice, events: list[Event]) -> None:
        message = choice.delta or choice.message
        if message is not None and message.role != "function_in_progress":  # a built-in tool's progress, not the answer
            if message.reasoning_content:
                events.append(ReasoningText(message.reasoning_content))
            if message.content:
                events += self._think.push(message.content)
            self._state_id = message.functions_state_id or self._state_id
            if message.function_call is not None:
                events += self._think.flush()
                events.append(self._call(message.function_call))
        if choice.finish_reason:
            events += self._think.flush()
            events.append(Finish(self._reason(choice.finish_reason), choice.finish_reason))
            self._finished = True

    def _learn(self, data: bytes, choice: ReadChoice) -> None:
        """Show the decoder what the chunks of this stream look like, where all that changes is the answer's text."""
        said = choice.delta
        assert self._runs is not None
        if said is None or not said.content or choice.index != 0 or choice.finish_reason:
            return
        if said.reasoning_content or said.function_call is not None or said.role == "function_in_progress":
            return
        if self._think.in_answer and self._stop is None and self._structured is None:
            self._runs.learn(data, said.content)

    def _call(self, call: ReadCall) -> ToolCallPart:
        try:
            arguments = arguments_text(call.arguments)
        except (ValueError, RecursionError) as error:
            raise UpstreamProtocolError(detail=f"arguments of a call: {type(error).__name__}") from None
        index = self._calls
        self._calls += 1
        return ToolCallPart(index, call_id(self._state_id, self._world), self._names.client(call.name), arguments)

    def _reason(self, native: str) -> FinishReason:
        """OpenAI's word for how the model ended. Raises UpstreamError where it failed."""
        if native in _MODEL_FAILED:
            raise UpstreamError("The model failed to call a function properly", detail=f"finish_reason {native}")
        if native.endswith(_FILTER_SUFFIXES):
            return "content_filter"
        reason = _FINISH.get(native, "stop")
        if reason == "tool_calls" and not self._calls:
            raise UpstreamProtocolError(detail="finish_reason function_call without a call")
        return "tool_calls" if reason == "stop" and self._calls else reason


def read_usage(reported: Any) -> Usage | None:
    """Section 9: the prompt's tokens are net of the cached ones. None for what is no count, or none that can be true."""
    try:
        usage = msgspec.convert(reported, ReadUsage, strict=False)
    except msgspec.ValidationError:
        return None
    prompt, completion, cached = usage.prompt_tokens, usage.completion_tokens, usage.precached_prompt_tokens
    if prompt is None or completion is None:
        return None
    if not all(0 <= count < _MOST_TOKENS for count in (prompt, completion, cached or 0)):
        return None
    return Usage(input_tokens=prompt + (cached or 0), output_tokens=completion, cached_tokens=cached)
