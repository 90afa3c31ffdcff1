"""GigaChat's chat request, typed, and the rules that it must keep (gigachat.md sections 3 and 6)."""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from xrouter.sandbox.gigachat_dialect import INVALID_JSON, NO_SUCH_MODEL, invalid, refuse
from xrouter.sandbox.gigachat_models import MODELS, Model
from xrouter.sandbox.schema_check import problem_of
from xrouter.sandbox.state import SandboxState
from xrouter.wire import decode_json

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_BAD_NAMES = (
    "Invalid function names. Only Latin letters (A-Z or a-z), underscore (_), hyphen (-), dot (.) and digits "
    "(not leading) are allowed.: [{}]"
)
_DEEPEST_SCHEMA = 64
_SCHEMA_FORMATS = {"date", "date-time", "time"}


class FunctionCall(Struct, forbid_unknown_fields=True):
    name: str
    arguments: dict[str, Any] | str = {}


class Message(Struct, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant", "function", "search_result", "function_in_progress"]
    content: str
    name: str | None = None
    function_call: FunctionCall | None = None
    functions_state_id: str | None = None
    attachments: list[str] | None = None
    reasoning_content: str | None = None
    data_for_context: list[Any] | None = None
    id: Any = None


class FewShotExample(Struct, forbid_unknown_fields=True):
    request: str
    params: dict[str, Any]


class FunctionSpec(Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    few_shot_examples: list[FewShotExample] | None = None
    return_parameters: dict[str, Any] | None = None


class NamedFunction(Struct, forbid_unknown_fields=True):
    name: str
    partial_arguments: dict[str, Any] | None = None


class ResponseFormat(Struct, forbid_unknown_fields=True):
    type: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ChatRequest(Struct):
    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    repetition_penalty: float | None = None
    stream: bool | None = None
    update_interval: float | None = None
    functions: list[FunctionSpec] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["low", "medium", "high"] | None = None
    profanity_check: bool | None = None
    flags: list[str] | None = None
    storage: dict[str, Any] | None = None
    assistant_id: str | None = None
    function_ranker: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(ChatRequest)
_FIELDS = frozenset(ChatRequest.__struct_fields__)


def read_chat(state: SandboxState, body: bytes) -> tuple[ChatRequest, Model]:
    """The request and its model. Raises Refusal with the provider's text for what it does not accept."""
    try:
        request = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise refuse(400, INVALID_JSON) from None
    if state.config.refuse_unknown_fields:
        unknown = sorted(decode_json(body).keys() - _FIELDS)
        if unknown:  # the sheet only says to drop them before sending
            raise invalid(f"unknown fields: [{' '.join(unknown)}]")
    model = MODELS.get(request.model)
    if model is None or model.type != "chat":
        raise refuse(404, NO_SUCH_MODEL)
    _check_numbers(request)
    _check_functions(state, request)
    _check_history(request)
    _check_response_format(request.response_format)
    return request, model


def _check_numbers(request: ChatRequest) -> None:
    if request.temperature is not None and request.temperature <= 0:
        raise invalid("temperature must be in range (0, +inf)")
    if request.top_p is not None and not 0 <= request.top_p <= 1:
        raise invalid("top_p must be in range [0, 1]")
    if request.max_tokens is not None and request.max_tokens <= 0:
        raise invalid("max_tokens must be in range (0, +inf)")
    if request.repetition_penalty is not None and request.repetition_penalty <= 0:
        raise invalid("repetition_penalty must be in range (0, +inf)")
    if request.update_interval is not None and request.update_interval < 0:
        raise invalid("update_interval must be in range [0, +inf)")


def _check_functions(state: SandboxState, request: ChatRequest) -> None:
    functions = request.functions or []
    if functions and request.model in state.config.models_without_functions:
        raise refuse(422, "Requested model does not support functions")
    bad = [each.name for each in functions if not _NAME.fullmatch(each.name)]
    bad += [
        each.name or "" for each in request.messages if each.role == "function" and not _NAME.fullmatch(each.name or "")
    ]
    if bad:
        raise invalid(_BAD_NAMES.format(" ".join(bad)))
    names = [each.name for each in functions]
    if len(set(names)) < len(names):
        raise invalid("function names must be unique")
    for each in functions:
        if each.parameters:
            if problem := problem_of(each.parameters):
                raise invalid(f"parameters of function {each.name} are no JSON schema: {problem}")
            if each.parameters.get("type", "object") != "object":
                raise invalid(f"parameters of function {each.name} must be an object")
            _check_schema(each.parameters, each.name)
    if isinstance(request.function_call, NamedFunction) and request.function_call.name not in names:
        raise invalid(f"function {request.function_call.name} is not among functions")
    last = request.messages[-1].role
    allowed = ("user", "function") if state.config.functions_after_result else ("user",)
    if functions and last not in allowed:
        raise invalid(f"functions may be used only when the last message has role {' or '.join(allowed)}")


def _check_schema(schema: Any, name: str, depth: int = 0) -> None:
    """What the official proxy removes before it sends: each of these is a 422."""
    if not isinstance(schema, dict):
        return
    if depth > _DEEPEST_SCHEMA:
        raise invalid(f"too many levels in parameters of function {name}")
    for keyword in ("$ref", "$defs", "definitions", "anyOf", "oneOf", "allOf"):
        if keyword in schema:
            raise invalid(f"{keyword} is not supported in parameters of function {name}")
    kind = schema.get("type")
    if isinstance(kind, list):
        raise invalid(f"type must be a string in parameters of function {name}")
    if kind == "object" and "properties" not in schema:
        raise invalid(f"object without properties in parameters of function {name}")
    if kind == "array" and "items" not in schema:
        raise invalid(f"array without items in parameters of function {name}")
    if any(not isinstance(each, str) for each in schema.get("enum") or ()):
        raise invalid(f"enum must hold strings in parameters of function {name}")
    if schema.get("format") is not None and schema["format"] not in _SCHEMA_FORMATS:
        raise invalid(f"unknown format {schema['format']} in parameters of function {name}")
    for each in (schema.get("properties") or {}).values():
        _check_schema(each, name, depth + 1)
    _check_schema(schema.get("items"), name, depth + 1)


def _check_history(request: ChatRequest) -> None:
    waiting: str | None = None  # the function whose result must come next
    for position, message in enumerate(request.messages):
        if message.role == "system" and position:
            raise invalid("system message must be the first message")
        if message.role == "function":
            if waiting is None or waiting != message.name:
                raise invalid("every assistant function result must have an assistant function call in history")
            _check_result(message)
            waiting = None
        elif waiting is not None:
            raise invalid("every assistant function call must have a result in history")
        if message.function_call is not None:
            if message.role != "assistant":
                raise refuse(400, INVALID_JSON)
            _check_arguments(message.function_call)
            waiting = message.function_call.name
    if waiting is not None:
        raise invalid("every assistant function call must have a result in history")


def _check_result(message: Message) -> None:
    problem = "not a JSON object"
    try:
        value = decode_json(message.content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        value, problem = None, str(error)
    if not isinstance(value, dict):
        text = f"invalid function result for function {message.name} json string {message.content}, error: {problem}"
        raise refuse(422, text)


def _check_arguments(call: FunctionCall) -> None:
    if isinstance(call.arguments, str):
        try:
            value = decode_json(call.arguments)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise refuse(400, INVALID_JSON)


def _check_response_format(wanted: ResponseFormat | None) -> None:
    if wanted is None or wanted.type == "text":
        return
    if wanted.type != "json_schema":
        raise refuse(400, f'Unknown type "{wanted.type}" in response_format')
    if not wanted.schema:
        raise refuse(400, "Empty schema with json format type is not supported")
    if problem := problem_of(wanted.schema):
        raise invalid(f"response_format holds no JSON schema: {problem}")
    if wanted.strict and not wanted.schema.get("required"):
        raise invalid("strict json schema must have required")
