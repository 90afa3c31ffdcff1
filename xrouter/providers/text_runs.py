"""The plain text of a stream, taken out of many chunks at a time.

An upstream writes the chunks of one stream with one serialiser: those that only add text differ in nothing but that text.
One of them is parsed, and shows what stands before and after its text. As long as the chunks that follow stand between the
same bytes they need no parsing: the texts of all complete events of a read are cut out at once, and are decoded as JSON
strings in one call, which proves that each is one whole string and nothing else. What does not fit is parsed as ever.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from xrouter.events import TextRun
from xrouter.providers.sse import SseDecoder

_TEXT: Final = re.compile(rb'"(?:content|text)": ?"((?:[^"\\]++|\\.)*+)"')  # possessive: an eighth of the time without
_TRIES: Final = 4  # chunks that are looked at without any being like them, before it is given up
_SINGLES: Final = 8  # events of one read that are parsed each by itself, in case a run follows
_FIELD: Final = b"data: "
_END: Final = b"\n\n"

_text: Final = msgspec.json.Decoder(str).decode
_texts: Final = msgspec.json.Decoder(list[str]).decode


class TextRuns:
    """Decodes one stream of server-sent events.

    `own`: its chunks are in OpenAI's shape, and runs say what is around texts.
    """

    def __init__(self, *, own: bool) -> None:
        self._sse = SseDecoder()
        self._own = own
        self._before = b""  # with the framing of the event; empty: nothing is known yet
        self._after = b""
        self._tries = _TRIES

    @property
    def wants(self) -> bool:
        """Whether another chunk of plain text is worth a look."""
        return self._tries > 0

    def learn(self, data: bytes, content: str) -> None:
        """`data`, the last event's, said nothing but `content`, and that under the name `content` or `text`."""
        self._tries -= 1
        found = list(_TEXT.finditer(data))
        if len(found) == 1 and _text(b'"%b"' % found[0][1]) == content:
            start, end = found[0].span(1)
            self._before, self._after = _FIELD + data[:start], data[end:] + _END

    def feed(self, data: bytes) -> Iterator[TextRun | bytes]:
        """The runs and the other events' data that end in `data`, in turn. Raises what `SseDecoder.feed` raises.

        To be iterated to its end. What is learnt from an event holds for those after it.
        """
        sse, singles = self._sse, _SINGLES
        while data:
            if self._before and sse.between_events:
                run, data = self._run(data)
                if run is not None:
                    yield run
                    continue
            end = -1
            if singles and (self._before or self._tries > 0):
                singles -= 1
                end = data.find(_END)
            piece, data = (data, b"") if end < 0 else (data[: end + len(_END)], data[end + len(_END) :])
            for event in sse.feed(piece):
                yield event.data

    def finish(self) -> Iterator[bytes]:
        """The body has ended: as `SseDecoder.finish`."""
        for event in self._sse.finish():
            yield event.data

    def _run(self, data: bytes) -> tuple[TextRun | None, bytes]:
        """The run that `data` begins with, and what follows it."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None, data
        between = after + before
        last = data.rfind(between)
        end = data.find(after, len(before) if last < 0 else last + len(between))
        if end < 0:
            end = last  # what comes last is not whole, or of another kind
        if end < 0:
            return None, data
        body = data[len(before) : end]
        joined = body.replace(between, b"\n")
        number = joined.count(b"\n")
        # No text ends in a backslash, so each quotation mark put between two of them is one. A text that holds another
        # makes it more strings than texts, or no JSON at all.
        if b"\\\n" in joined or len(body) - len(joined) != number * (len(between) - 1):
            return None, data
        try:
            texts = _texts(b'["%b"]' % joined.replace(b"\n", b'","'))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None, data
        if len(texts) != number + 1:
            return None, data
        if not self._own and "" in texts:  # a chunk of ours that says nothing is not sent
            joined = b"\n".join([piece for piece in joined.split(b"\n") if piece])
            if not joined:
                return None, data
        self._tries = min(self._tries + 1, _TRIES)
        if self._own:
            run = TextRun(joined, "".join(texts), before[len(_FIELD) :], after[: -len(_END)])
        else:
            run = TextRun(joined, "".join(texts))
        return run, data[end + len(after) :]
