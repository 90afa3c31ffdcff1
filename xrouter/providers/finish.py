"""Why a model stopped, in the words that OpenAI's and OpenRouter's clients know."""

from collections.abc import Mapping
from typing import Final

from xrouter.events import FinishReason

_KNOWN: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
}


def finish_reason(native: str) -> FinishReason:
    """OpenAI's reason for an upstream's own word; an unknown word is a plain stop."""
    return _KNOWN.get(native.lower(), "stop")
