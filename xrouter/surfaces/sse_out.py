"""Server-sent events out: the framing that OpenAI's clients expect."""

from typing import Any, Final

from xrouter.errors import XRouterError
from xrouter.events import TextRun
from xrouter.surfaces.base import AnswerHead, encode

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": OPENROUTER PROCESSING\n\n"  # a comment: clients skip lines that begin with a colon


def event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data


def text_events(run: TextRun, before: bytes, after: bytes) -> bytes:
    """An event for each piece of `run`, with the JSON that stands before and after it."""
    first, last = b"data: " + before, after + b"\n\n"
    return b"%b%b%b" % (first, run.joined.replace(b"\n", last + first), last)


def error_event(head: AnswerHead, kind: str, error: XRouterError, choice: dict[str, Any]) -> bytes:
    """The one event after which a broken stream ends: OpenRouter's shape, readable as a chunk by OpenAI's clients."""
    chunk = {
        "id": head.id,
        "object": kind,
        "created": head.created,
        "model": head.model,
        "provider": head.provider,
        **error.body(),
        "choices": [{"index": 0, **choice, "finish_reason": "error"}],
    }
    return event(encode(chunk))
