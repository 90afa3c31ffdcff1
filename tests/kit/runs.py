"""Events one by one: what stands together in a run of texts, as it would come alone."""

from collections.abc import Iterable

import msgspec

from xrouter.events import Event, Text, TextRun


def alone(events: Iterable[Event]) -> list[Event]:
    single: list[Event] = []
    for event in events:
        if not isinstance(event, TextRun):
            single.append(event)
        elif event.before:
            single += event.chunks()
        else:
            single += [Text(msgspec.json.decode(b'"%b"' % piece, type=str)) for piece in event.pieces()]
    return single
