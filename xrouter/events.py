"""The pieces that an answer is made of, the same for every provider.

A translator turns one provider's bytes into these, a surface turns them into the client's bytes, and a filter that watches
a stream reads them from `message["xrouter.events"]` instead of parsing the bytes again.
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from xrouter.wire import decode_json

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error"]


class Usage(Struct, frozen=True):
    """Tokens of one generation.

    `input_tokens` includes the cached ones; `output_tokens` includes the reasoning ones. `None` where the provider did not
    say: unknown is not zero. `source`: reported by the provider, or counted here.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    source: Literal["reported", "counted"] = "reported"


class Event:
    """One parsed piece of an answer. `text` is what a person reads of it, '' for most kinds."""

    __slots__ = ()

    @property
    def text(self) -> str:
        return ""


class Text(Event, Struct, frozen=True):
    """More of the answer's text."""

    content: str

    @property
    def text(self) -> str:
        return self.content


class ReasoningText(Event, Struct, frozen=True):
    """More of the model's visible reasoning."""

    content: str

    @property
    def text(self) -> str:
        return self.content


class ToolCallPart(Event, Struct, frozen=True):
    """A tool call, or more of one. `id` and `name` come with the first part of an index; `arguments` is JSON text."""

    index: int
    id: str | None
    name: str | None
    arguments: str

    @property
    def text(self) -> str:
        return (self.name or "") + self.arguments


class Finish(Event, Struct, frozen=True):
    """The model stopped. `native` is the provider's own word for it."""

    reason: FinishReason
    native: str


class Embedding(Event, Struct, frozen=True):
    """One vector, in the order of the inputs."""

    index: int
    vector: list[float]


class Answer(Event, Struct, frozen=True):
    """A whole answer that is already in OpenAI's shape, from an upstream that speaks it."""

    body: dict[str, Any]

    @property
    def text(self) -> str:
        return "".join(_choice_text(choice, "message") for choice in self.body.get("choices") or ())


class Verbatim(Event):
    """One chunk of a stream that is already in OpenAI's shape: passed on as it came, parsed only if somebody asks."""

    __slots__ = ("_parsed", "data")

    def __init__(self, data: bytes, parsed: dict[str, Any] | None = None) -> None:
        self.data = data  # the JSON text of one `data:` field
        self._parsed = parsed

    def forget(self) -> None:
        """Let go of the parsed form, which takes many times the bytes. Who asks for it again has it parsed again."""
        self._parsed = None

    @property
    def body(self) -> dict[str, Any]:
        """The chunk as a dict; {} if it is not a JSON object."""
        if self._parsed is None:
            try:
                parsed = decode_json(self.data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                parsed = {}
            self._parsed = parsed if isinstance(parsed, dict) else {}
        return self._parsed

    @property
    def text(self) -> str:
        choices = self.body.get("choices")
        return "".join(_choice_text(choice, "delta") for choice in choices) if isinstance(choices, list) else ""

    def __repr__(self) -> str:
        return f"Verbatim({self.data!r})"


class TextRun(Event):
    """More of the answer's text in several pieces: what a read brought in chunks that differ in nothing else.

    `joined` has the pieces as they stand between a JSON string's quotation marks, with a line feed between each two, which
    cannot stand in one. `before` and `after`: the JSON around each piece, of an upstream that speaks OpenAI's protocol.
    """

    __slots__ = ("_content", "after", "before", "joined")

    def __init__(self, joined: bytes, content: str, before: bytes = b"", after: bytes = b"") -> None:
        self.joined = joined
        self.before = before
        self.after = after
        self._content = content

    @property
    def text(self) -> str:
        return self._content

    def pieces(self) -> list[bytes]:
        return self.joined.split(b"\n")

    def chunks(self) -> list[Verbatim]:
        """The upstream's own chunks, one by one."""
        return [Verbatim(self.before + piece + self.after) for piece in self.pieces()]

    def __repr__(self) -> str:
        return f"TextRun({self.joined!r})"


def _choice_text(choice: Any, key: str) -> str:
    """Everything that was generated in one choice: content, reasoning, tool calls, or a completion's text."""
    if not isinstance(choice, dict):
        return ""
    message = choice.get(key)
    if not isinstance(message, dict):
        return choice.get("text") or ""
    pieces = [message.get("reasoning_content") or message.get("reasoning"), message.get("content")]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        pieces += [function.get("name"), function.get("arguments")]
    return "".join(piece for piece in pieces if isinstance(piece, str))
