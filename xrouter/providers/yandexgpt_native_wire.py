"""The native surface's JSON, typed: `CompletionRequest` and `CompletionResponse` of Yandex's protobufs, sections 3 and 4.

Numbers of 64 bits come as strings, or as numbers from some gateways; default values may be left out. Both are read.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from xrouter.errors import UpstreamProtocolError
from xrouter.events import FinishReason, Usage

PARTIAL = "ALTERNATIVE_STATUS_PARTIAL"
CONTENT_FILTER = "ALTERNATIVE_STATUS_CONTENT_FILTER"
FINISH_REASONS: dict[str, FinishReason] = {
    "ALTERNATIVE_STATUS_FINAL": "stop",
    "ALTERNATIVE_STATUS_TRUNCATED_FINAL": "length",
    CONTENT_FILTER: "content_filter",
    "ALTERNATIVE_STATUS_TOOL_CALLS": "tool_calls",
}
_MAX_COUNT = 2**53  # of tokens: what is above is no count


class FunctionCall(Struct):
    name: str
    arguments: dict[str, Any] = {}


class ToolCall(Struct, rename="camel"):
    function_call: FunctionCall


class ToolCallList(Struct, rename="camel"):
    tool_calls: list[ToolCall] = []


class FunctionResult(Struct):
    name: str
    content: str


class ToolResult(Struct, rename="camel"):
    function_result: FunctionResult


class ToolResultList(Struct, rename="camel"):
    tool_results: list[ToolResult]


class NativeMessage(Struct, rename="camel", omit_defaults=True):
    """Exactly one of `text`, `tool_call_list` and `tool_result_list` is set."""

    role: Literal["system", "user", "assistant"]
    text: str | None = None
    tool_call_list: ToolCallList | None = None
    tool_result_list: ToolResultList | None = None


class ReasoningOptions(Struct):
    mode: Literal["DISABLED", "ENABLED_HIDDEN"]


class CompletionOptions(Struct, rename="camel", omit_defaults=True):
    stream: bool
    temperature: float | None = None
    max_tokens: str | None = None  # an int64 of protobuf, so a string in JSON
    reasoning_options: ReasoningOptions | None = None


class Function(Struct, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    function: Function


class ToolChoice(Struct, rename="camel", omit_defaults=True):
    """One of the two."""

    mode: Literal["NONE", "AUTO", "REQUIRED"] | None = None
    function_name: str | None = None


class JsonSchema(Struct):
    schema: dict[str, Any]


class NativeRequest(Struct, rename="camel", omit_defaults=True):
    """The body of `completion`, `completionAsync` and `tokenizeCompletion`. Never both `json_object` and `json_schema`."""

    model_uri: str
    completion_options: CompletionOptions
    messages: list[NativeMessage]
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    json_object: bool | None = None
    json_schema: JsonSchema | None = None


class AnswerMessage(Struct, rename="camel"):
    text: str = ""
    tool_call_list: ToolCallList | None = None


class Alternative(Struct):
    message: AnswerMessage = msgspec.field(default_factory=AnswerMessage)
    status: str = ""


class CompletionTokensDetails(Struct, rename="camel"):
    reasoning_tokens: int = 0


class NativeUsage(Struct, rename="camel"):
    input_text_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int | None = None
    completion_tokens_details: CompletionTokensDetails | None = None


class Completion(Struct, rename="camel"):
    alternatives: list[Alternative] = []
    usage: NativeUsage | None = None
    model_version: str | None = None


class Line(Struct):
    """One line of a stream, and a whole answer: the RPC streams, so a gateway wraps each message in `result`."""

    result: Completion | None = None
    error: Any = None
    message: Any = None  # beside `code` where an error is not wrapped


_line_decoder = msgspec.json.Decoder(Line, strict=False)


def decode_line(data: bytes) -> Line:
    """Raises UpstreamProtocolError for what is not a line of this protocol."""
    try:
        return _line_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError(detail=f"not a completion: {type(error).__name__}") from None


_PARTIAL_ENDS = (b'"},"status":"ALTERNATIVE_STATUS_PARTIAL"}', b'"}, "status": "ALTERNATIVE_STATUS_PARTIAL"}')


def newest(lines: Sequence[bytes]) -> Sequence[bytes]:
    """The lines of one read without partial ones that the next one only goes on from: it repeats their text.

    Decoding a burst's lines one by one takes time that grows with the square of the text. A line that takes text back is not
    left out, nor is the one before it.
    """
    if len(lines) < 2:
        return lines
    kept = []
    ends = [max(line.find(mark) for mark in _PARTIAL_ENDS) for line in lines]
    for index, line in enumerate(lines[:-1]):
        end = ends[index]
        if end < 0 or ends[index + 1] < 0 or not lines[index + 1].startswith(line[:end]):
            kept.append(line)
    return [*kept, lines[-1]]


def read_usage(usage: NativeUsage | None) -> Usage | None:
    """Yandex's counts in our terms; None if there are none, or numbers that cannot be counts.

    Whether `completionTokens` includes the reasoning is not documented; `totalTokens` tells (section 12).
    """
    if usage is None:
        return None
    details = usage.completion_tokens_details
    reasoning = details.reasoning_tokens if details is not None else None
    counts = (usage.input_text_tokens, usage.completion_tokens, usage.total_tokens or 0, reasoning or 0)
    if min(counts) < 0 or max(counts) > _MAX_COUNT:
        return None
    output = usage.completion_tokens
    if reasoning and usage.total_tokens == usage.input_text_tokens + output + reasoning:
        output += reasoning
    return Usage(usage.input_text_tokens, output, reasoning_tokens=reasoning)
