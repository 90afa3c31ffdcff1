"""The native completion request, typed, and the rules that it must keep (yandexgpt.md sections 3, 7 and 14)."""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from xrouter.sandbox.schema_check import problem_of
from xrouter.sandbox.state import SandboxState
from xrouter.sandbox.yandex_dialect import INVALID_ARGUMENT, NOT_FOUND, YandexDialect
from xrouter.sandbox.yandex_models import Addressed, resolve
from xrouter.wire import decode_json

_LONGEST_TEXT = 100_000
_OPAQUE = {"parameters", "schema", "arguments"}  # JSON of the user's own, whose keys are not the API's
_UNDERSCORE = re.compile(r"_([a-z])")


class ReasoningOptions(Struct, forbid_unknown_fields=True, rename="camel"):
    mode: Literal["REASONING_MODE_UNSPECIFIED", "DISABLED", "ENABLED_HIDDEN"] = "DISABLED"


class CompletionOptions(Struct, forbid_unknown_fields=True, rename="camel"):
    stream: bool = False
    temperature: float | None = None
    max_tokens: str | int | None = None
    reasoning_options: ReasoningOptions | None = None


class FunctionCall(Struct, forbid_unknown_fields=True):
    name: str
    arguments: dict[str, Any] = {}


class ToolCall(Struct, forbid_unknown_fields=True, rename="camel"):
    function_call: FunctionCall


class ToolCallList(Struct, forbid_unknown_fields=True, rename="camel"):
    tool_calls: Annotated[list[ToolCall], Meta(min_length=1)]


class FunctionResult(Struct, forbid_unknown_fields=True):
    name: str
    content: str


class ToolResult(Struct, forbid_unknown_fields=True, rename="camel"):
    function_result: FunctionResult


class ToolResultList(Struct, forbid_unknown_fields=True, rename="camel"):
    tool_results: Annotated[list[ToolResult], Meta(min_length=1)]


class Message(Struct, forbid_unknown_fields=True, rename="camel"):
    role: Literal["system", "assistant", "user"]
    text: str | None = None
    tool_call_list: ToolCallList | None = None
    tool_result_list: ToolResultList | None = None


class FunctionTool(Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, forbid_unknown_fields=True):
    function: FunctionTool


class JsonSchema(Struct, forbid_unknown_fields=True):
    schema: dict[str, Any]


class ToolChoice(Struct, forbid_unknown_fields=True, rename="camel"):
    mode: Literal["TOOL_CHOICE_MODE_UNSPECIFIED", "NONE", "AUTO", "REQUIRED"] | None = None
    function_name: str | None = None


class CompletionRequest(Struct, forbid_unknown_fields=True, rename="camel"):
    model_uri: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    completion_options: CompletionOptions = msgspec.field(default_factory=CompletionOptions)
    tools: list[Tool] | None = None
    json_object: bool | None = None
    json_schema: JsonSchema | None = None
    parallel_tool_calls: bool | None = None
    tool_choice: ToolChoice | None = None

    def max_tokens(self) -> int | None:
        value = self.completion_options.max_tokens
        return None if value is None else int(value)


def read_completion(state: SandboxState, body: bytes, dialect: YandexDialect) -> tuple[CompletionRequest, Addressed]:
    """The request and its model. Raises Refusal with the provider's text for what it does not accept."""
    request = decoded(body, CompletionRequest, dialect)
    addressed = resolve(state, request.model_uri, "gpt", dialect, "invalid model_uri")
    if not addressed.model.native:
        raise dialect.refuse(NOT_FOUND, "Failed to get model")
    _check_options(request, addressed, dialect)
    _check_messages(request.messages, dialect)
    schemas = [each.function.parameters for each in request.tools or ()]
    schemas += [request.json_schema.schema] if request.json_schema else []
    for schema in schemas:
        if problem := problem_of(schema or {}):
            raise dialect.refuse(INVALID_ARGUMENT, f"invalid json schema: {problem}")
    names = {each.function.name for each in request.tools or ()}
    chosen = request.tool_choice
    if chosen and chosen.function_name and chosen.function_name not in names:
        raise dialect.refuse(INVALID_ARGUMENT, f"function {chosen.function_name} is not among tools")
    if chosen and chosen.mode and chosen.function_name:
        raise dialect.refuse(INVALID_ARGUMENT, "only one of mode and function_name may be set in tool_choice")
    if request.json_object and request.json_schema:
        raise dialect.refuse(INVALID_ARGUMENT, "only one of json_object and json_schema may be set")
    return request, addressed


def decoded(body: bytes, kind: type[Any], dialect: YandexDialect) -> Any:
    """`body` as a message of the API, in proto3's JSON: keys in either spelling, unknown ones refused."""
    try:
        return msgspec.convert(_camel(decode_json(body)), kind)
    except msgspec.ValidationError as problem:
        raise dialect.refuse(INVALID_ARGUMENT, f"invalid request: {problem}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise dialect.refuse(INVALID_ARGUMENT, "invalid request: malformed JSON") from None


def _camel(value: Any) -> Any:
    """`value` with the API's own keys in lowerCamelCase."""
    if isinstance(value, list):
        return [_camel(each) for each in value]
    if isinstance(value, dict):
        renamed = {}
        for key, each in value.items():
            name = _UNDERSCORE.sub(lambda match: match[1].upper(), key) if "_" in key else key
            renamed[name] = each if name in _OPAQUE else _camel(each)
        return renamed
    return value


def _check_options(request: CompletionRequest, addressed: Addressed, dialect: YandexDialect) -> None:
    options = request.completion_options
    if options.temperature is not None and not 0 <= options.temperature <= 1:
        raise dialect.refuse(INVALID_ARGUMENT, "temperature must be in range [0, 1]")
    limit = options.max_tokens
    if limit is not None:
        text = str(limit)
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 63):
            raise dialect.refuse(INVALID_ARGUMENT, "max_tokens must be a positive int64")
    reasoning = options.reasoning_options
    if reasoning and reasoning.mode == "ENABLED_HIDDEN" and not addressed.model.hidden_reasoning:
        raise dialect.refuse(INVALID_ARGUMENT, "reasoning mode is not supported by the model")


def _check_messages(messages: list[Message], dialect: YandexDialect) -> None:
    waiting: list[str] = []  # functions of the newest toolCallList that have no result yet
    for message in messages:
        contents = [message.text, message.tool_call_list, message.tool_result_list]
        given = sum(each is not None for each in contents)
        if given != 1:
            raise dialect.refuse(
                INVALID_ARGUMENT, f"exactly one of text, tool_call_list, tool_result_list must be set, got {given}"
            )
        if message.text is not None:
            if not message.text:
                raise dialect.refuse(INVALID_ARGUMENT, "empty message text")
            if len(message.text) > _LONGEST_TEXT:
                text = f"text length is {len(message.text)}, which is outside the range (0, {_LONGEST_TEXT}]"
                raise dialect.refuse(INVALID_ARGUMENT, text)
        if message.tool_result_list is not None:
            results = [each.function_result.name for each in message.tool_result_list.tool_results]
            if results != waiting:
                raise dialect.refuse(INVALID_ARGUMENT, "tool results do not match the preceding tool calls")
            waiting = []
        elif waiting:
            raise dialect.refuse(INVALID_ARGUMENT, "tool calls are not followed by their results")
        if message.tool_call_list is not None:
            if message.role != "assistant":
                raise dialect.refuse(INVALID_ARGUMENT, "tool_call_list must be in a message of role assistant")
            waiting = [each.function_call.name for each in message.tool_call_list.tool_calls]
    if waiting:
        raise dialect.refuse(INVALID_ARGUMENT, "tool calls are not followed by their results")
