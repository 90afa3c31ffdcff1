"""`stop` for upstreams that lack it: the answer is cut here, at the sequence.

As with a model that stops by itself, the sequence that is complete first ends the answer, and none of it is delivered.
The upstream generates on, and is read on, because its usage comes last and is billed.
"""

from collections.abc import Iterable, Sequence

from xrouter.errors import BadRequest
from xrouter.events import Event, Finish, Text

MAX_SEQUENCES = 16
MAX_SEQUENCE_CHARS = 1000
"""OpenAI takes four sequences. These bounds only keep the work on each piece small."""


class StopCutter:
    """Cuts one answer. Without sequences it passes everything through.

    Text that may yet become a stop sequence is held back, so no part of one is ever delivered, and the pieces that the
    text came in make no difference. Raises BadRequest for sequences beyond the bounds.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        if len(sequences) > MAX_SEQUENCES:
            raise BadRequest(f"At most {MAX_SEQUENCES} stop sequences are possible", param="stop")
        if any(len(sequence) > MAX_SEQUENCE_CHARS for sequence in sequences):
            raise BadRequest(f"A stop sequence has at most {MAX_SEQUENCE_CHARS} characters", param="stop")
        self._sequences = tuple(sequence for sequence in sequences if sequence)
        self._held = ""
        self.cut = False

    def apply(self, events: Iterable[Event]) -> list[Event]:
        """What of `events` is delivered. At the cut comes `Finish("stop")`, after it nothing."""
        if not self._sequences:
            return list(events)
        ended_before = self.cut
        if ended_before:
            return []
        delivered: list[Event] = []
        for event in events:
            if isinstance(event, Text):
                if text := self.push(event.content):
                    delivered.append(Text(text))
                if self.cut:
                    delivered.append(Finish("stop", "stop"))
                    break
            else:
                if text := self.flush():
                    delivered.append(Text(text))
                delivered.append(event)
        return delivered

    def push(self, text: str) -> str:
        """What may be delivered now that `text` has come. Sets `cut` if a sequence is complete."""
        if self.cut:
            return ""
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._sequences if (start := text.find(stop)) >= 0]
        if found:
            self.cut = True
            self._held = ""
            return text[: min(found)[1]]
        kept_from = min(opening(text, stop) for stop in self._sequences)
        self._held = text[kept_from:]
        return text[:kept_from]

    def flush(self) -> str:
        """The text has ended, or was interrupted: what was held back is no stop sequence."""
        held, self._held = self._held, ""
        return held


def opening(text: str, sequence: str) -> int:
    """Where the longest end of `text` that `sequence` begins with starts; `len(text)` if there is none."""
    start = text.find(sequence[0], max(0, len(text) - len(sequence) + 1))
    while start >= 0:
        if sequence.startswith(text[start:]):
            return start
        start = text.find(sequence[0], start + 1)
    return len(text)
