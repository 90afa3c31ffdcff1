"""OpenAI's requests, typed, and the rules that they must keep. Source: OpenAI's API reference and its API's own errors.

More lenient than the original in one thing: a strict JSON schema need not say `additionalProperties: false`.
"""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from xrouter.sandbox.openai_dialect import refuse
from xrouter.sandbox.schema_check import problem_of
from xrouter.wire import decode_json

Positive = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Stop = str | Annotated[list[str], Meta(max_length=4)]

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_LONELY_RESULT = (
    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
)
_UNKNOWN = re.compile(r"Object contains unknown field `(.+)`")


class ImageUrl(Struct, forbid_unknown_fields=True):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class Part(Struct, forbid_unknown_fields=True):
    type: Literal["text", "image_url", "input_audio", "file", "refusal"]
    text: str | None = None
    image_url: ImageUrl | None = None
    input_audio: dict[str, Any] | None = None
    file: dict[str, Any] | None = None
    refusal: str | None = None


class FunctionCall(Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class ToolCall(Struct, forbid_unknown_fields=True):
    id: str
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None


class Message(Struct, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(min_length=1)] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None
    refusal: str | None = None
    audio: dict[str, Any] | None = None
    reasoning_content: str | None = None  # not OpenAI's; other servers of this protocol take it back
    annotations: list[Any] | None = None

    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text or "" for part in self.content or () if part.type == "text")

    def images(self) -> int:
        return sum(part.type == "image_url" for part in self.content or ()) if isinstance(self.content, list) else 0


class FunctionSpec(Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Struct, forbid_unknown_fields=True):
    name: str


class ToolChoice(Struct, forbid_unknown_fields=True):
    type: Literal["function", "allowed_tools"]
    function: NamedFunction | None = None
    allowed_tools: dict[str, Any] | None = None


class JsonSchema(Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(Struct, forbid_unknown_fields=True):
    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: int | None = None
    stop: Stop | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Meta(min_length=1, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionSpec] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None

    def output_cap(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Struct, forbid_unknown_fields=True):
    model: str
    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: int | None = None
    stop: Stop | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    user: str | None = None


class EmbeddingRequest(Struct, forbid_unknown_fields=True):
    model: str
    input: str | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None
    user: str | None = None


def read_chat(body: bytes, *, refuse_unknown: bool) -> ChatRequest:
    """Raises Refusal 400 with `param`, as OpenAI does, for what breaks a rule."""
    request: ChatRequest = decoded(body, ChatRequest, refuse_unknown=refuse_unknown)
    _check_options(request)
    _check_history(request.messages)
    return request


def decoded(body: bytes, kind: type[Any], *, refuse_unknown: bool) -> Any:
    try:
        if refuse_unknown:
            return msgspec.json.decode(body, type=kind)
        value = decode_json(body)
        if isinstance(value, dict):
            value = {key: each for key, each in value.items() if key in kind.__struct_fields__}
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as problem:
        raise _refused(str(problem)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = (
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
        )
        raise refuse(400, text) from None


def _refused(problem: str) -> Exception:
    """msgspec's "Expected `str`, got `int` - at `$.messages[0].role`" in OpenAI's words."""
    found = _PLACE.match(problem)
    assert found is not None
    what, path = found["what"], found["path"] or None
    if unknown := _UNKNOWN.match(what):
        name = f"{path}.{unknown[1]}" if path else unknown[1]
        return refuse(400, f"Unrecognized request argument supplied: {name}", name, "unknown_parameter")
    if "missing required field" in what:
        name = what.split("`")[1]
        name = f"{path}.{name}" if path else name
        return refuse(400, f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    return refuse(400, f"Invalid value for '{path or 'body'}': {what[0].lower()}{what[1:]}.", path, "invalid_value")


def _check_options(request: ChatRequest) -> None:
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        text = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise refuse(400, text, "max_tokens", "invalid_parameter_combination")
    if request.stream_options is not None and not request.stream:
        text = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise refuse(400, text, "stream_options")
    if request.top_logprobs is not None and not request.logprobs:
        text = "'top_logprobs' is only allowed when 'logprobs' is enabled."
        raise refuse(400, text, "top_logprobs")
    if request.tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if getattr(request, name) is not None:
                raise refuse(400, f"'{name}' is only allowed when 'tools' are specified.", name)
    _check_functions(request)
    if request.response_format is not None:
        _check_response_format(request.response_format, request.messages)


def _check_functions(request: ChatRequest) -> None:
    if request.tools is not None and request.functions is not None:
        raise refuse(400, "'functions' and 'tools' may not be given together.", "functions")
    specs = {f"tools[{index}].function": tool.function for index, tool in enumerate(request.tools or ())}
    specs |= {f"functions[{index}]": spec for index, spec in enumerate(request.functions or ())}
    for where, spec in specs.items():
        if problem := problem_of(spec.parameters or {}):
            text = f"Invalid schema for function '{spec.name}': {problem}"
            raise refuse(400, text, f"{where}.parameters", "invalid_function_parameters")
    names = {spec.name for spec in specs.values()}
    choice = request.tool_choice
    named = choice.function if isinstance(choice, ToolChoice) else request.function_call
    missing = isinstance(choice, ToolChoice) and choice.type == "function" and named is None
    if missing or (isinstance(named, NamedFunction) and named.name not in names):
        raise refuse(400, "Tool choice names a function that is not among 'tools'.", "tool_choice")


def _check_response_format(wanted: ResponseFormat, messages: list[Message]) -> None:
    schema = wanted.json_schema
    if wanted.type == "json_schema" and (schema is None or schema.schema is None):
        name = "response_format.json_schema"
        raise refuse(400, f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if schema is not None and (problem := problem_of(schema.schema or {})):
        raise refuse(400, f"Invalid schema for response_format '{schema.name}': {problem}", "response_format")
    if wanted.type == "json_object" and not any("json" in each.text().lower() for each in messages):
        text = "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
        raise refuse(400, text, "messages")


def _check_history(messages: list[Message]) -> None:
    waiting: list[str] = []
    for position, message in enumerate(messages):
        where = f"messages.[{position}]"
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                raise refuse(400, _LONELY_RESULT, f"{where}.role")
            waiting.remove(message.tool_call_id)
        elif waiting:
            break
        if message.content is None and message.role != "assistant":
            text = f"Invalid value for 'content': expected a string, got null. ({where})"
            raise refuse(400, text, f"{where}.content", "invalid_type")
        if message.role == "function" and not message.name:
            raise refuse(
                400, f"Missing parameter 'name': messages with role 'function' must have a 'name'. ({where})", where
            )
        if message.tool_calls:
            if message.role != "assistant":
                raise refuse(400, f"'tool_calls' is only allowed in messages of role 'assistant'. ({where})", where)
            waiting = [call.id for call in message.tool_calls]
        elif message.role == "assistant" and message.content is None and message.function_call is None:
            text = "Invalid value for 'content': expected a string, got null."
            raise refuse(400, text, f"{where}.content", "invalid_type")
    if waiting:
        text = (
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
            f"The following tool_call_ids did not have response messages: {', '.join(waiting)}"
        )
        raise refuse(400, text, "messages")
