"""The compatible surface's JSON, typed: OpenAI's chat completions as far as Yandex documents them (sheet, section 9).

The request is built of what is documented and of nothing else: a strict backend may refuse an unknown field.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from xrouter.errors import UpstreamProtocolError
from xrouter.events import Usage
from xrouter.wire import ToolCall

_MAX_COUNT = 2**53  # of tokens: what is above is no count


class ImageUrl(Struct, omit_defaults=True):
    url: str
    detail: str | None = None


class Part(Struct, omit_defaults=True):
    type: str
    text: str | None = None
    image_url: ImageUrl | None = None


class CompatibleMessage(Struct, omit_defaults=True):
    role: str
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(Struct, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    function: Function
    type: str = "function"


class NamedFunction(Struct):
    name: str


class NamedTool(Struct):
    function: NamedFunction
    type: str = "function"


class JsonSchema(Struct, omit_defaults=True):
    name: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct, omit_defaults=True):
    type: str
    json_schema: JsonSchema | None = None


class CompatibleRequest(Struct, omit_defaults=True):
    model: str
    messages: list[CompatibleMessage]
    stream: bool = False
    temperature: float | None = None
    max_tokens: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None


class AnswerFunction(Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class AnswerToolCall(Struct):
    """A call, or more of one. Parts of a stream say which by `index`; a whole answer's calls stand in order."""

    index: Annotated[int, Meta(ge=0, lt=1024)] | None = None
    id: str | None = None
    function: AnswerFunction = msgspec.field(default_factory=AnswerFunction)


class AnswerMessage(Struct):
    """A whole message, or one delta of it."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[AnswerToolCall] | None = None
    function_call: AnswerFunction | None = None


class Choice(Struct):
    delta: AnswerMessage | None = None
    message: AnswerMessage | None = None
    finish_reason: str | None = None


class PromptTokensDetails(Struct):
    cached_tokens: int | None = None


class CompletionTokensDetails(Struct):
    reasoning_tokens: int | None = None


class CompatibleUsage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None


class Chunk(Struct):
    """A chunk of a stream, or a whole answer. `error` may stand in either, whatever the status was."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: Any = None  # read by itself: one that makes no sense is no reason to lose the answer
    error: Any = None


_chunk_decoder = msgspec.json.Decoder(Chunk)


def decode_chunk(data: bytes) -> Chunk:
    """Raises UpstreamProtocolError for what is neither a chunk nor an answer."""
    try:
        return _chunk_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError(detail=f"not a chat completion: {type(error).__name__}") from None


def read_usage(reported: Any) -> Usage | None:
    """The counts in our terms; None where they are missing or cannot be counts. What is not said is unknown, not zero."""
    try:
        usage = msgspec.convert(reported, CompatibleUsage, strict=False)
    except msgspec.ValidationError:
        return None
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
    reasoning = usage.completion_tokens_details.reasoning_tokens if usage.completion_tokens_details else None
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    counts = (usage.prompt_tokens, usage.completion_tokens, cached or 0, reasoning or 0)
    if min(counts) < 0 or max(counts) > _MAX_COUNT:
        return None
    return Usage(usage.prompt_tokens, usage.completion_tokens, cached, reasoning)
