"""A JSON answer that comes as a forced call: the call's arguments in the place of the text."""

from collections.abc import Iterable

from xrouter.events import Event, Finish, Text, ToolCallPart


class StructuredAnswer:
    """Rewrites one answer's events. What the model says beside its call would spoil the JSON: it is withheld.

    A model that did not call after all has its text delivered, at its end.
    """

    def __init__(self) -> None:
        self._text: list[str] = []
        self._called = False

    def apply(self, events: Iterable[Event]) -> list[Event]:
        delivered: list[Event] = []
        for event in events:
            match event:
                case Text(content):
                    self._text.append(content)
                case ToolCallPart(arguments=arguments):
                    if not self._called:
                        delivered.append(Text(arguments))
                    self._called = True
                case Finish(reason, native):
                    if self._text and not self._called:
                        delivered.append(Text("".join(self._text)))
                    delivered.append(Finish("stop" if reason == "tool_calls" else reason, native))
                case _:
                    delivered.append(event)
        return delivered
