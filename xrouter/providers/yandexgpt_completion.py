"""Yandex's native completions turned into events: the lines of a stream, a whole answer, the result of an operation.

Source: the sheet's sections 4, 5 and 7.
"""

from collections.abc import Iterator
from hashlib import blake2b

from xrouter.errors import UpstreamProtocolError
from xrouter.events import Event, Finish, FinishReason, Text, ToolCallPart, Usage
from xrouter.providers.yandexgpt_cumulative import CumulativeText
from xrouter.providers.yandexgpt_native_wire import (
    CONTENT_FILTER,
    FINISH_REASONS,
    PARTIAL,
    Alternative,
    Completion,
    ToolCallList,
    read_usage,
)
from xrouter.wire import encode_json


class CompletionReader:
    """One answer, as a sequence of completions of which each holds all the text so far.

    A status that is neither partial nor final (left out, or one of tomorrow's) ends the answer only if nothing follows.
    """

    def __init__(self, generation_id: str, hold_back_chars: int = 0) -> None:
        self._generation_id = generation_id
        self._unclear: Alternative | None = None
        self.text = CumulativeText(hold_back_chars)
        self.usage: Usage | None = None
        self.model_version: str | None = None
        self.ended = False
        self.filtered = False

    def take(self, completion: Completion) -> list[Event]:
        """The news in `completion`. Raises UpstreamProtocolError for a final one that holds nothing."""
        if completion.usage is not None:
            self.usage = read_usage(completion.usage)
        if completion.model_version:
            self.model_version = completion.model_version
        if not completion.alternatives:
            return []
        alternative = completion.alternatives[0]
        reason = FINISH_REASONS.get(alternative.status)
        if reason is not None:
            return list(self._final(alternative, reason))
        self._unclear = None if alternative.status == PARTIAL else alternative
        piece = self.text.partial(alternative.message.text)
        return [Text(piece)] if piece else []

    def end(self) -> list[Event]:
        """Nothing more will come. Raises UpstreamProtocolError if the answer has no end."""
        if self.ended:
            return []
        if self._unclear is None:
            raise UpstreamProtocolError("The upstream's answer was cut off", detail="no final status")
        return list(self._final(self._unclear, "stop"))

    def _final(self, alternative: Alternative, reason: FinishReason) -> Iterator[Event]:
        message = alternative.message
        calls = _calls(message.tool_call_list, self._generation_id)
        if calls and reason == "stop":
            reason = "tool_calls"
        elif reason == "tool_calls" and not calls:
            reason = "stop"
        if reason == "stop" and not message.text and alternative.status != "ALTERNATIVE_STATUS_FINAL":
            raise UpstreamProtocolError(detail=f"an empty answer with status {alternative.status[:60]!r}")
        self.ended = True
        self.filtered = alternative.status == CONTENT_FILTER
        # A refusal stands in the place of the answer; after a part of the answer it would only confuse.
        if not (self.filtered and self.text.sent) and (piece := self.text.final(message.text)):
            yield Text(piece)
        yield from calls
        yield Finish(reason, alternative.status)


def _calls(calls: ToolCallList | None, generation_id: str) -> list[ToolCallPart]:
    """Yandex's calls have no ids: the ones made here are unlike any other answer's, and the same if made again."""
    parts = []
    for index, call in enumerate(calls.tool_calls if calls is not None else ()):
        name = call.function_call.name
        digest = blake2b(f"{generation_id}:{index}:{name}".encode(), digest_size=12).hexdigest()
        parts.append(ToolCallPart(index, f"call_{digest}", name, encode_json(call.function_call.arguments).decode()))
    return parts
