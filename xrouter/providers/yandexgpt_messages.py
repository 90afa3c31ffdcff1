"""A conversation in OpenAI's terms, put in order for Yandex. Both surfaces write down what comes out of here.

Source: the sheet's sections 7 and 15: empty messages are dropped, text between a tool call and its result too; results are
matched to calls by id and put in the calls' order, since the native surface pairs them by place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from xrouter.errors import BadRequest
from xrouter.wire import FunctionCall, Message, Part, ToolCall

Role = Literal["system", "developer", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Said:
    """A message of text. `parts` keeps the order of texts and images, for a model that sees; else it is empty."""

    role: Role
    text: str
    parts: Sequence[Part] = ()


@dataclass(frozen=True, slots=True)
class ToolRound:
    """What the assistant called in one turn, and the result of each call, in the same order."""

    calls: Sequence[ToolCall]
    results: Sequence[str] = field(default=())


Turn = Said | ToolRound


def turns(messages: Sequence[Message], *, sees: bool) -> list[Turn]:
    """The conversation in order. `sees`: the model takes images, as data URLs.

    Raises BadRequest for an image it cannot take, a result without its call, a call without its result, and when nothing
    is left to answer.
    """
    ordered: list[Turn] = []
    pending: _OpenRound | None = None
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if message.role in ("tool", "function"):
            if pending is None:
                raise BadRequest("A tool's result must follow the call that it answers", param=place)
            pending.answer(message, place)
            if pending.complete:
                ordered.append(pending.closed())
                pending = None
            continue
        calls = _calls(message, place)
        if pending is not None:
            if message.role == "assistant" and not calls:
                continue
            raise BadRequest("Every tool call must be answered by a tool message", param=place)
        if said := _said(message, sees, place):
            ordered.append(said)
        if calls:
            pending = _OpenRound(calls)
    if pending is not None:
        raise BadRequest("Every tool call must be answered by a tool message", param="messages")
    _refuse_empty_question(messages, sees)
    if not ordered:
        raise BadRequest("The messages hold no text", param="messages")
    return ordered


class _OpenRound:
    """A round of calls whose results are still coming."""

    def __init__(self, calls: Sequence[ToolCall]) -> None:
        self._calls = calls
        self._results: list[str | None] = [None] * len(calls)

    def answer(self, message: Message, place: str) -> None:
        for index, call in enumerate(self._calls):
            matches = call.id == message.tool_call_id if message.role == "tool" else call.function.name == message.name
            if matches and self._results[index] is None:
                self._results[index] = message.text()
                return
        raise BadRequest("A tool's result answers no call of the turn before it", param=f"{place}.tool_call_id")

    @property
    def complete(self) -> bool:
        return None not in self._results

    def closed(self) -> ToolRound:
        return ToolRound(self._calls, [result or "" for result in self._results])


def _calls(message: Message, place: str) -> list[ToolCall]:
    if message.role != "assistant":
        return []
    calls = list(message.tool_calls or ())
    if any(call.type != "function" for call in calls):
        raise BadRequest("Only tool calls of the type function are possible here", param=f"{place}.tool_calls")
    if message.function_call is not None:
        older: FunctionCall = message.function_call
        calls.append(ToolCall(function=older, id=f"call_{older.name}"))
    return calls


def _said(message: Message, sees: bool, place: str) -> Said | None:
    """The message's text, or None if it holds nothing."""
    assert message.role != "tool" and message.role != "function"  # noqa: PT018  mypy narrows by comparisons only
    parts = message.content if isinstance(message.content, list) else ()
    has_image = False
    for index, part in enumerate(parts):
        where = f"{place}.content[{index}]"
        if part.type == "text":
            continue
        if part.type != "image_url" or part.image_url is None:
            raise BadRequest("A part of a message is text or an image", param=where)
        if not sees:
            raise BadRequest("This model cannot see images", param=where)
        if not part.image_url.url.startswith("data:image/"):
            raise BadRequest("Images are sent as base64 data URLs here", param=where)
        has_image = True
    text = message.text()
    if not text and not has_image:
        return None
    return Said(message.role, text, parts if has_image else ())


def _refuse_empty_question(messages: Sequence[Message], sees: bool) -> None:
    """The user's last message is what is to be answered: dropping it would answer something else."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "user":
            if _said(messages[index], sees, f"messages[{index}]") is None:
                raise BadRequest("The user's last message is empty", param=f"messages[{index}]")
            return
