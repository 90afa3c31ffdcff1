"""Reasoning that a model writes into its answer between `<think>` and `</think>`: told apart from the answer."""

from enum import Enum, auto
from typing import Final

from xrouter.events import Event, ReasoningText, Text
from xrouter.providers.stop import opening

_BEGIN: Final = "<think>"
_END: Final = "</think>"
_MOST_LEADING_SPACE: Final = 64  # characters before a mark; an answer that begins with more has none


class _Place(Enum):
    START = auto()
    REASONING = auto()
    GAP = auto()  # white space between the closing mark and the answer
    ANSWER = auto()


class ThinkSplitter:
    """Splits one answer, in pieces cut anywhere. Only a mark at the answer's very start counts: later it is text."""

    def __init__(self) -> None:
        self._place = _Place.START
        self._held = ""  # what may yet turn out to be a mark

    @property
    def in_answer(self) -> bool:
        """Whether all that follows is text."""
        return self._place is _Place.ANSWER

    def push(self, text: str) -> list[Event]:
        """The events of one more piece of text."""
        if self._place is _Place.ANSWER:
            return [Text(text)] if text else []
        held, self._held = self._held + text, ""
        if self._place is _Place.START:
            begun = held.lstrip()
            too_far = len(held) - len(begun) > _MOST_LEADING_SPACE
            if _BEGIN.startswith(begun) and not too_far:
                self._held = held
                return []
            if too_far or not begun.startswith(_BEGIN):
                self._place = _Place.ANSWER
                return [Text(held)]
            self._place = _Place.REASONING
            held = begun[len(_BEGIN) :]
        return self._reasoning(held) if self._place is _Place.REASONING else self._gap(held)

    def flush(self) -> list[Event]:
        """The answer has ended: what was held back is no mark."""
        held, self._held = self._held, ""
        if not held:
            return []
        return [ReasoningText(held) if self._place is _Place.REASONING else Text(held)]

    def _reasoning(self, text: str) -> list[Event]:
        thought, mark, rest = text.partition(_END)
        if not mark:
            end = opening(text, _END)
            thought, self._held = text[:end], text[end:]
        events: list[Event] = [ReasoningText(thought)] if thought else []
        if mark:
            self._place = _Place.GAP
            events += self._gap(rest)
        return events

    def _gap(self, text: str) -> list[Event]:
        answer = text.lstrip()
        if not answer:
            return []
        self._place = _Place.ANSWER
        return [Text(answer)]
