"""What a chat or completion request asks for, the same for both of Yandex's surfaces: what is refused, what is left out.

Source: the sheet's section 15. A surface's own file says how the rest is written down there.
"""

from dataclasses import dataclass
from typing import Literal

from xrouter.config.settings import ModelSettings
from xrouter.context import Call
from xrouter.errors import BadRequest, InternalError
from xrouter.providers.yandexgpt_models import YandexModel
from xrouter.wire import (
    ChatRequest,
    CompletionRequest,
    FunctionSpec,
    Message,
    NamedFunction,
    NamedTool,
    ResponseFormat,
)

ToolChoice = Literal["none", "auto", "required"] | NamedFunction

_MAX_TEMPERATURE = 1.0  # of Yandex's own models; above it the native surface answers 400
_REASONING_OFF = frozenset({"none", "minimal"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request as Yandex can serve it. `downgrades` names what was changed or left out on the way."""

    messages: list[Message]
    stop: tuple[str, ...]
    temperature: float | None
    max_tokens: int | None
    tools: tuple[FunctionSpec, ...]
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    response_format: ResponseFormat | None
    effort: str | None  # of reasoning; None: the client said nothing of it, or the model has no such mode
    private: bool  # the client forbids that its data is kept
    downgrades: tuple[str, ...]

    @property
    def reasons(self) -> bool:
        return self.effort is not None and self.effort not in _REASONING_OFF


def wanted(call: Call, model: YandexModel, settings: ModelSettings, *, reasons: bool, strict: bool) -> Wanted:
    """`call` in Yandex's terms. `reasons`: the surface has a reasoning mode for this model.

    Raises BadRequest for what Yandex cannot do and nobody may silently leave out; with `strict` for any downgrade.
    """
    request = _as_chat(call.request)
    _refuse_impossible(request)
    tools, choice = _tools(request, settings)
    downgrades = [
        name
        for name, value, neutral in (
            ("top_p", request.top_p, 1),
            ("top_k", request.top_k, 0),
            ("frequency_penalty", request.frequency_penalty, 0),
            ("presence_penalty", request.presence_penalty, 0),
            ("repetition_penalty", request.repetition_penalty, 1),
            ("seed", request.seed, None),
            ("logit_bias", request.logit_bias or None, None),
        )
        if value is not None and value != neutral
    ]
    temperature = request.temperature
    if model.own and temperature is not None and temperature > _MAX_TEMPERATURE:
        temperature = _MAX_TEMPERATURE
        downgrades.append("temperature")
    effort = _effort(request)
    if not reasons and effort is not None:
        if effort not in _REASONING_OFF:
            downgrades.append("reasoning_effort")
        effort = None
    if strict and downgrades:
        raise BadRequest(f"This model cannot honour {', '.join(downgrades)} as asked", param=downgrades[0])
    preferences = request.provider
    return Wanted(
        messages=request.messages,
        stop=request.stop_sequences(),
        temperature=temperature,
        max_tokens=request.output_cap(),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=request.parallel_tool_calls if tools else None,
        response_format=request.response_format,
        effort=effort,
        private=preferences is not None and preferences.data_collection == "deny",
        downgrades=tuple(downgrades),
    )


def _as_chat(request: object) -> ChatRequest:
    match request:
        case ChatRequest():
            return request
        case CompletionRequest():
            return _completion_as_chat(request)
    raise InternalError(detail=f"{type(request).__name__} is no chat")


def _completion_as_chat(request: CompletionRequest) -> ChatRequest:
    """A prompt is one message of the user: Yandex has no models that merely complete."""
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if len(prompts) != 1:
        raise BadRequest("This model takes one prompt a request", param="prompt")
    if request.suffix:
        raise BadRequest("This model cannot insert text before a suffix", param="suffix")
    if request.echo:
        raise BadRequest("This model cannot echo the prompt", param="echo")
    if request.best_of not in (None, 1):
        raise BadRequest("This model gives one answer a request", param="best_of")
    if request.logprobs is not None:
        raise BadRequest("This model gives no log probabilities", param="logprobs")
    return ChatRequest(
        messages=[Message(role="user", content=prompts[0])],
        provider=request.provider,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        stop=request.stop,
        n=request.n,
        logit_bias=request.logit_bias,
    )


def _refuse_impossible(request: ChatRequest) -> None:
    if request.n not in (None, 1):
        raise BadRequest("This model gives one answer a request", param="n")
    if request.logprobs or request.top_logprobs:
        raise BadRequest("This model gives no log probabilities", param="logprobs")
    if request.audio is not None or "audio" in (request.modalities or ()):
        raise BadRequest("This model neither hears nor speaks", param="modalities")
    form = request.response_format
    if form is not None:
        if form.type not in ("text", "json_object", "json_schema"):
            raise BadRequest("A response format is text, json_object or json_schema", param="response_format")
        if form.type == "json_schema" and (form.json_schema is None or form.json_schema.schema is None):
            raise BadRequest("The response format's schema is missing", param="response_format")


def _tools(request: ChatRequest, settings: ModelSettings) -> tuple[tuple[FunctionSpec, ...], ToolChoice | None]:
    """The functions and the choice among them, from today's fields or from OpenAI's older `functions`."""
    functions: list[FunctionSpec] = []
    for tool in request.tools or ():
        if tool.type != "function" or tool.function is None:
            raise BadRequest("Only tools of the type function are possible here", param="tools")
        functions.append(tool.function)
    functions += request.functions or ()
    if functions and not settings.tools:
        raise BadRequest("This model cannot call tools", param="tools")
    asked = request.tool_choice if request.tool_choice is not None else request.function_call
    if isinstance(asked, NamedTool):
        asked = asked.function
    if isinstance(asked, NamedFunction) and all(function.name != asked.name for function in functions):
        raise BadRequest("The chosen tool is not among the tools", param="tool_choice")
    if asked == "required" and not functions:
        raise BadRequest("A tool call is required, but there are no tools", param="tool_choice")
    return tuple(functions), asked if functions else None


def _effort(request: ChatRequest) -> str | None:
    """How hard to think; OpenRouter's other ways to switch reasoning on or off are put into OpenAI's words."""
    if effort := request.effort():
        return effort
    reasoning = request.reasoning
    if reasoning is None:
        return None
    if reasoning.enabled is False:
        return "none"
    return "medium" if reasoning.enabled or reasoning.max_tokens else None
