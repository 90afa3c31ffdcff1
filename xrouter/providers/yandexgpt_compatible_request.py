"""A request written down for Yandex's OpenAI-compatible surface. Source: the sheet's sections 8, 9 and 15."""

from collections.abc import Iterator

from xrouter.providers.yandexgpt_compatible_wire import (
    CompatibleMessage,
    CompatibleRequest,
    Function,
    ImageUrl,
    JsonSchema,
    NamedFunction,
    NamedTool,
    Part,
    ResponseFormat,
    Tool,
)
from xrouter.providers.yandexgpt_messages import Said, ToolRound, Turn, turns
from xrouter.providers.yandexgpt_models import YandexModel
from xrouter.providers.yandexgpt_request import ToolChoice, Wanted
from xrouter.wire import Part as WantedPart
from xrouter.wire import ResponseFormat as WantedFormat

_UNNAMED_SCHEMA = "answer"  # a schema's name is required there, and optional to our clients


def compatible_request(wanted: Wanted, model: YandexModel, *, sees: bool, stream: bool) -> CompatibleRequest:
    """`sees`: the model takes images. Raises BadRequest for what the compatible surface cannot express."""
    messages = [
        message
        for turn in turns(wanted.messages, sees=sees)
        for message in _written(turn, keep_developer=model.knows_developer)
    ]
    return CompatibleRequest(
        model=model.uri("gpt"),
        messages=messages,
        stream=stream,
        temperature=wanted.temperature,
        max_tokens=wanted.max_tokens,
        tools=[
            Tool(Function(function.name, function.description, function.parameters, function.strict))
            for function in wanted.tools
        ]
        or None,
        tool_choice=_choice(wanted.tool_choice),
        parallel_tool_calls=wanted.parallel_tool_calls,
        response_format=_format(wanted.response_format),
        reasoning_effort=wanted.effort,
    )


def _written(turn: Turn, *, keep_developer: bool) -> Iterator[CompatibleMessage]:
    match turn:
        case Said(role=role, text=text, parts=parts):
            if role == "developer" and not keep_developer:
                role = "system"
            yield CompatibleMessage(role, [_part(part) for part in parts] or text)
        case ToolRound(calls=calls, results=results):
            yield CompatibleMessage("assistant", tool_calls=list(calls))
            for call, result in zip(calls, results, strict=True):
                yield CompatibleMessage("tool", result, tool_call_id=call.id)


def _part(part: WantedPart) -> Part:
    image = part.image_url
    return Part(part.type, part.text, ImageUrl(image.url, image.detail) if image is not None else None)


def _choice(choice: ToolChoice | None) -> str | NamedTool | None:
    return choice if choice is None or isinstance(choice, str) else NamedTool(NamedFunction(choice.name))


def _format(form: WantedFormat | None) -> ResponseFormat | None:
    """Text is the default, so it is not sent."""
    if form is None or form.type == "text":
        return None
    given = form.json_schema
    if given is None or form.type == "json_object":
        return ResponseFormat(form.type)
    schema = JsonSchema(given.name or _UNNAMED_SCHEMA, given.schema, given.strict, given.description)
    return ResponseFormat(form.type, schema)
