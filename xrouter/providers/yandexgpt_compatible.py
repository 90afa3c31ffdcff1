"""Chat over Yandex's OpenAI-compatible surface: OpenAI's chunks in, with Yandex's deviations, events out.

Source: the sheet's section 9. The chunks are not passed on as they came, since too much of them has to be put right:
finish reasons in capitals, a filter's whole replacement text as a delta, errors under status 200, usage anywhere or nowhere.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

from xrouter.context import Call
from xrouter.errors import UpstreamProtocolError, XRouterError
from xrouter.events import Event, Finish, ReasoningText, Text, ToolCallPart
from xrouter.providers.base import Exchange, Purpose, Translator
from xrouter.providers.finish import finish_reason
from xrouter.providers.sse import DONE, SseDecoder
from xrouter.providers.stop import StopCutter
from xrouter.providers.whole_body import WholeBody
from xrouter.providers.yandexgpt_access import Access
from xrouter.providers.yandexgpt_compatible_request import compatible_request
from xrouter.providers.yandexgpt_compatible_wire import (
    AnswerFunction,
    AnswerMessage,
    AnswerToolCall,
    decode_chunk,
    read_usage,
)
from xrouter.providers.yandexgpt_errors import answer_name, refuse_markup
from xrouter.providers.yandexgpt_models import YandexModel, served_name
from xrouter.providers.yandexgpt_request import wanted
from xrouter.upstream.base import Headers, UpstreamAnswer
from xrouter.wire import decode_json, encode_json

_MAX_ANSWER_BYTES = 8 * 1024 * 1024


class CompatibleTranslator(Translator):
    """One chat completion. A body that is no stream although one was asked for is read as a whole answer, or an error."""

    def __init__(self, access: Access, model: YandexModel, call: Call, purpose: Purpose) -> None:
        self._access = access
        self._model = model
        self._call = call
        self._facts = purpose.model
        self._generation_id = purpose.generation_id
        self._cutter = StopCutter(())
        self._streamed = call.stream
        self._at_start = True
        self._events = SseDecoder()
        self._whole = WholeBody(_MAX_ANSWER_BYTES)
        self._calls_seen = 0
        self._said_something = False
        self._finished = False
        self._done = False
        self._failed: XRouterError | None = None

    def exchange(self) -> Exchange:
        asked = wanted(
            self._call,
            self._model,
            self._facts,
            reasons=self._facts.reasoning,
            strict=self._access.settings.strict,
        )
        self.downgrades = asked.downgrades
        self._cutter = StopCutter(asked.stop)
        request = compatible_request(asked, self._model, sees="image" in self._facts.inputs, stream=self._streamed)
        yield from ()  # no requests before the completion itself
        return self._access.openai("chat/completions", encode_json(request), private=asked.private)

    def started(self, status: int, headers: Headers) -> None:
        refuse_markup(headers)
        self.upstream_id = answer_name(headers)

    def feed(self, data: bytes) -> Sequence[Event]:
        if self._at_start and (opening := data.lstrip()):
            self._at_start = False
            self._streamed = self._streamed and not opening.startswith(b"{")  # no field of an SSE stream begins so
        if not self._streamed:
            self._whole.add(data)
            return ()
        return self._read([event.data for event in self._events.feed(data)])

    def finish(self) -> Sequence[Event]:
        if self._failed is not None and not self._cutter.cut:
            raise self._failed
        if self._streamed:
            events = self._read([event.data for event in self._events.finish()])
        else:
            events = self._read([self._whole.joined()])
        if self._finished or self._cutter.cut:
            return events
        if not (self._done and self._said_something):
            raise UpstreamProtocolError("The upstream's answer was cut off", detail="no finish reason")
        return events + self._cutter.apply([self._finish_of("")])

    @property
    def complete(self) -> bool:
        return self._done or self._failed is not None

    def error(self, answer: UpstreamAnswer) -> XRouterError:
        return self._access.error(answer)

    def _read(self, chunks: Sequence[bytes]) -> list[Event]:
        """The events of some chunks. Those before one that is an error are delivered first, `finish` then raises it."""
        events: list[Event] = []
        for data in chunks:
            if self.complete:
                break
            if data == DONE:
                self._done = True
                break
            try:
                news = self._chunk(data)
            except XRouterError as error:
                if self._finished:
                    self._done = True  # the answer is whole, whatever is wrong with what follows it
                    break
                self._failed = error
                if events or self._cutter.cut:
                    break
                raise
            events += self._cutter.apply(news)
        return events

    def _chunk(self, data: bytes) -> list[Event]:
        chunk = decode_chunk(data)
        if chunk.error:
            raise self._access.error_in_body(decode_json(data))
        if chunk.usage is not None:
            self.usage = read_usage(chunk.usage)
        if chunk.model:
            self.upstream_model = served_name(chunk.model)
        if not chunk.choices:
            if chunk.usage is None and chunk.choices is None:
                raise UpstreamProtocolError(detail="a chunk with neither choices nor usage")
            return []
        choice = chunk.choices[0]
        if self._finished:
            return []
        message = choice.delta or choice.message or AnswerMessage()
        reason = choice.finish_reason.lower() if choice.finish_reason else None
        if reason == "content_filter" and self._said_something:
            # The replacement for all that was said: after a part of it, it would only confuse.
            self._cutter.flush()
            return [self._finish_of(choice.finish_reason or "")]
        events = list(self._said(message))
        if reason is not None:
            events.append(self._finish_of(choice.finish_reason or ""))
        return events

    def _said(self, message: AnswerMessage) -> Iterator[Event]:
        if message.reasoning_content:
            yield ReasoningText(message.reasoning_content)
        if message.content:
            self._said_something = True
            yield Text(message.content)
        for place, call in enumerate(message.tool_calls or ()):
            yield self._tool_call(place, call)
        if message.function_call is not None:
            yield self._tool_call(0, AnswerToolCall(0, None, message.function_call))

    def _tool_call(self, place: int, call: AnswerToolCall) -> ToolCallPart:
        self._said_something = True
        index = place if call.index is None else call.index
        begins = index >= self._calls_seen
        self._calls_seen = max(self._calls_seen, index + 1)
        identity = (call.id or self._made_up_id(index)) if begins else call.id
        return ToolCallPart(index, identity, call.function.name or None, _arguments(call.function))

    def _made_up_id(self, index: int) -> str:
        return "call_" + blake2b(f"{self._generation_id}:{index}".encode(), digest_size=12).hexdigest()

    def _finish_of(self, native: str) -> Finish:
        """OpenAI's word for the upstream's; a model that called tools stopped for them, whatever it says."""
        self._finished = True
        reason = finish_reason(native)
        if reason == "stop" and self._calls_seen:
            reason = "tool_calls"
        return Finish(reason, native)


def _arguments(function: AnswerFunction) -> str:
    """Arguments as JSON text; from an object where a model's template gave one."""
    if isinstance(function.arguments, dict):
        return encode_json(function.arguments).decode()
    return function.arguments or ""
