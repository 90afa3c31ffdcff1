"""A request written down for Yandex's native surface. Source: the sheet's sections 3, 7, 8 and 15."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from xrouter.errors import BadRequest, ContextLengthExceeded
from xrouter.providers.yandexgpt_messages import Said, ToolRound, Turn, turns
from xrouter.providers.yandexgpt_models import YandexModel
from xrouter.providers.yandexgpt_native_wire import (
    CompletionOptions,
    Function,
    FunctionCall,
    FunctionResult,
    JsonSchema,
    NativeMessage,
    NativeRequest,
    ReasoningOptions,
    Tool,
    ToolCall,
    ToolCallList,
    ToolChoice,
    ToolResult,
    ToolResultList,
)
from xrouter.providers.yandexgpt_request import ToolChoice as WantedChoice
from xrouter.providers.yandexgpt_request import Wanted
from xrouter.wire import ResponseFormat, decode_json

_SYSTEM = ("system", "developer")
_MAX_TEXT_CHARS = 100_000  # of one message: above it Yandex answers 400
_ASK_FOR_JSON = "Отвечай только в формате JSON."
"""Without a word of it in the prompt a model held to JSON may write white space up to its limit (section 3)."""


def native_request(wanted: Wanted, model: YandexModel, *, stream: bool) -> NativeRequest:
    """Raises BadRequest for what the native surface cannot express."""
    form = wanted.response_format
    schema = _schema(form)
    json_object = form is not None and form.type == "json_object"
    return NativeRequest(
        model_uri=model.uri("gpt"),
        completion_options=CompletionOptions(
            stream=stream,
            temperature=wanted.temperature,
            max_tokens=None if wanted.max_tokens is None else str(wanted.max_tokens),
            reasoning_options=_reasoning(wanted, model),
        ),
        messages=native_messages(turns(wanted.messages, sees=False), ask_for_json=json_object or schema is not None),
        tools=[
            Tool(Function(function.name, function.description, function.parameters, function.strict))
            for function in wanted.tools
        ]
        or None,
        tool_choice=_choice(wanted.tool_choice),
        parallel_tool_calls=wanted.parallel_tool_calls,
        json_object=json_object or None,
        json_schema=schema,
    )


def native_messages(conversation: Sequence[Turn], *, ask_for_json: bool = False) -> list[NativeMessage]:
    """One leading system message, then the rest; neighbours of one role become one message."""
    system = [turn.text for turn in conversation if isinstance(turn, Said) and turn.role in _SYSTEM]
    if ask_for_json and not any("json" in turn.text.lower() for turn in conversation if isinstance(turn, Said)):
        system.append(_ASK_FOR_JSON)
    messages: list[NativeMessage] = []
    if system:
        messages.append(NativeMessage("system", text="\n\n".join(system)))
    for turn in conversation:
        messages += _written(turn)
    merged: list[NativeMessage] = []
    for message in messages:
        if message.text is not None and len(message.text) > _MAX_TEXT_CHARS:
            raise ContextLengthExceeded(f"A message may have at most {_MAX_TEXT_CHARS} characters", param="messages")
        before = merged[-1] if merged else None
        if before is not None and before.role == message.role and before.text and message.text:
            text = f"{before.text}\n{message.text}"
            if len(text) <= _MAX_TEXT_CHARS:
                before.text = text
                continue
        merged.append(message)
    return merged


def _written(turn: Turn) -> Iterator[NativeMessage]:
    """The messages of one turn; none for what went into the system message."""
    match turn:
        case Said(role="user" | "assistant" as role, text=text):
            yield NativeMessage(role, text=text)
        case ToolRound(calls=calls, results=results):
            names = [call.function.name for call in calls]
            yield NativeMessage(
                "assistant",
                tool_call_list=ToolCallList(
                    [ToolCall(FunctionCall(call.function.name, _arguments(call.function.arguments))) for call in calls]
                ),
            )
            if any(len(result) > _MAX_TEXT_CHARS for result in results):
                raise BadRequest(f"A tool's result may have at most {_MAX_TEXT_CHARS} characters", param="messages")
            pairs = zip(names, results, strict=True)
            yield NativeMessage(
                "user",  # as in the documentation's sample
                tool_result_list=ToolResultList([ToolResult(FunctionResult(name, result)) for name, result in pairs]),
            )


def _arguments(text: str) -> dict[str, Any]:
    """A call's arguments, which OpenAI keeps as text and Yandex as an object."""
    if not text.strip():
        return {}
    try:
        arguments = decode_json(text)
    except (msgspec.DecodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise BadRequest("A tool call's arguments must be a JSON object", param="messages")
    return arguments


def _choice(choice: WantedChoice | None) -> ToolChoice | None:
    match choice:
        case None:
            return None
        case "none":
            return ToolChoice(mode="NONE")
        case "auto":
            return ToolChoice(mode="AUTO")
        case "required":
            return ToolChoice(mode="REQUIRED")
    return ToolChoice(function_name=choice.name)


def _schema(form: ResponseFormat | None) -> JsonSchema | None:
    if form is None or form.type != "json_schema":
        return None
    assert form.json_schema is not None
    assert form.json_schema.schema is not None
    return JsonSchema(form.json_schema.schema)


def _reasoning(wanted: Wanted, model: YandexModel) -> ReasoningOptions | None:
    if not model.reasons_hidden:
        return None
    return ReasoningOptions("ENABLED_HIDDEN" if wanted.reasons else "DISABLED")
