"""A chat request as GigaChat's body: the mapping table of the sheet's section 12.

What is not named here is dropped: penalties, `logit_bias`, `seed`, `user`, `metadata`, `store`, `service_tier`,
`prediction`, `parallel_tool_calls` (one call an answer is all there is). What would change the answer's meaning is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from msgspec import UNSET

from xrouter.config.settings import ModelSettings
from xrouter.errors import BadRequest
from xrouter.providers.gigachat_config import GigaChatConfig
from xrouter.providers.gigachat_functions import FunctionNames, requested_functions, sent_function
from xrouter.providers.gigachat_images import Image
from xrouter.providers.gigachat_messages import conversation
from xrouter.providers.gigachat_schema import SchemaNormaliser
from xrouter.providers.gigachat_wire import (
    Effort,
    ForcedFunction,
    SentChat,
    SentFunction,
    SentMessage,
    SentResponseFormat,
)
from xrouter.wire import (
    ChatRequest,
    CompletionRequest,
    FunctionSpec,
    JsonSchema,
    Message,
    NamedFunction,
    NamedTool,
    encode_json,
)

_EFFORTS: Final[tuple[Effort, ...]] = get_args(Effort)
_JSON_FUNCTION: Final = "json_answer"
_JSON_FUNCTION_PURPOSE: Final = "Gives the user the whole answer as a JSON object."
_FREE_OBJECT_PURPOSE: Final = f"{_JSON_FUNCTION_PURPOSE} Choose its keys and values as the user asks."
_JSON_INSTRUCTION: Final = "When you answer the user, answer with one JSON object and nothing else, no code fence."


@dataclass(slots=True)
class ChatPlan:
    """The body, and what has to be known to finish it and to read its answer."""

    body: SentChat
    names: FunctionNames
    images: list[tuple[SentMessage, Image]]  # to upload before the body is sent
    stop: tuple[str, ...] = ()
    structured: bool = False  # the answer comes as a forced call, whose arguments are its content
    downgrades: list[str] = field(default_factory=list)


def chat_plan(request: ChatRequest, model: str, settings: ModelSettings, config: GigaChatConfig) -> ChatPlan:
    """Raises BadRequest for what GigaChat cannot express, and in strict mode for what it can only in part."""
    _refuse_impossible(request)
    names = FunctionNames()
    schemas = SchemaNormaliser()
    functions = [] if _tool_choice(request) == "none" else list(requested_functions(request))
    if not functions and _tool_choice(request) not in (None, "none", "auto"):
        raise BadRequest("tool_choice asks for a tool, and there are none", param="tool_choice")
    sent = [sent_function(spec, names, schemas, f"tools[{at}].function") for at, spec in enumerate(functions)]
    talk = conversation(request.messages, names, echo_state_id=config.echo_state_id)
    body = SentChat(model=model, messages=talk.messages)
    plan = ChatPlan(body, names, talk.images, stop=request.stop_sequences())
    _set_sampling(body, request, config)
    if sent:
        _set_functions(plan, request, functions, sent)
        if config.omit_function_call_after_result and talk.ends_with_result:
            body.function_call = UNSET
    _set_response_format(plan, request, settings, schemas)
    if config.strict and (refused := [*plan.downgrades, *(["stop"] if plan.stop else [])]):
        raise BadRequest(f"GigaChat cannot keep {refused[0]} as asked", param=refused[0])
    return plan


def as_chat(request: CompletionRequest) -> ChatRequest:
    """A completion as a chat of one message: GigaChat has nothing closer. Raises BadRequest for what that cannot be."""
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if len(prompts) != 1:
        raise BadRequest("GigaChat completes one prompt a request", param="prompt")
    for param in ("echo", "suffix", "logprobs"):
        if getattr(request, param):
            raise BadRequest(f"GigaChat has no {param}", param=param)
    if (request.best_of or 1) > 1:
        raise BadRequest("GigaChat gives one answer a request", param="best_of")
    return ChatRequest(
        messages=[Message("user", prompts[0])],
        n=request.n,
        stream=request.stream,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        repetition_penalty=request.repetition_penalty,
        stop=request.stop,
    )


def _refuse_impossible(request: ChatRequest) -> None:
    if (request.n or 1) > 1:
        raise BadRequest("GigaChat gives one answer a request", param="n")
    if request.logprobs or request.top_logprobs:
        raise BadRequest("GigaChat has no log probabilities", param="logprobs" if request.logprobs else "top_logprobs")
    if request.audio is not None or any(modality != "text" for modality in request.modalities or ()):
        raise BadRequest("GigaChat answers in text only", param="modalities" if request.modalities else "audio")


def _set_sampling(body: SentChat, request: ChatRequest, config: GigaChatConfig) -> None:
    if request.temperature == 0:
        body.top_p = 0  # the range of `temperature` excludes 0 (section 3)
    else:
        body.temperature = UNSET if request.temperature is None else request.temperature
        body.top_p = UNSET if request.top_p is None else request.top_p
    body.max_tokens = request.output_cap() or UNSET
    body.repetition_penalty = request.repetition_penalty or UNSET
    body.stream = True if request.stream else UNSET
    body.reasoning_effort = next((effort for effort in _EFFORTS if effort == request.effort()), UNSET)
    body.profanity_check = UNSET if config.profanity_check is None else config.profanity_check
    body.update_interval = UNSET if config.update_interval_s is None else config.update_interval_s


def _tool_choice(request: ChatRequest) -> str | NamedTool | NamedFunction | None:
    """`tool_choice`, or the older `function_call`."""
    return request.function_call if request.tools is None and request.tool_choice is None else request.tool_choice


def _set_functions(
    plan: ChatPlan, request: ChatRequest, functions: Sequence[FunctionSpec], sent: list[SentFunction]
) -> None:
    """`function_call` is always sent: what its absence means differs between functions (section 3)."""
    plan.body.functions = sent
    choice = _tool_choice(request)
    if isinstance(choice, NamedTool | NamedFunction):
        wanted = choice.function if isinstance(choice, NamedTool) else choice
        if wanted is None or all(spec.name != wanted.name for spec in functions):
            raise BadRequest("tool_choice names none of the tools", param="tool_choice")
        plan.body.function_call = ForcedFunction(plan.names.sent(wanted.name))
    elif choice == "required" and len(sent) == 1:
        plan.body.function_call = ForcedFunction(sent[0].name)
    else:
        plan.body.function_call = "auto"
        if choice == "required":
            plan.downgrades.append("tool_choice")


def _set_response_format(
    plan: ChatPlan, request: ChatRequest, settings: ModelSettings, schemas: SchemaNormaliser
) -> None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return
    if wanted.type not in ("json_object", "json_schema"):
        raise BadRequest(f"No response format is called {wanted.type!r}", param="response_format.type")
    asked = wanted.json_schema if wanted.type == "json_schema" else JsonSchema()
    if asked is None or (wanted.type == "json_schema" and asked.schema is None):
        raise BadRequest("The response format json_schema has a schema", param="response_format.json_schema.schema")
    schema = schemas.object_schema(asked.schema, "response_format.json_schema.schema")
    if settings.json_schema == "native" and wanted.type == "json_schema":
        strict = True if asked.strict and schema.get("required") else UNSET
        plan.body.response_format = SentResponseFormat(schema, strict)
    elif plan.body.functions is not UNSET:
        # The one call that an answer may hold has to be left to the client's own functions.
        _instruct(plan.body.messages, schema if asked.schema else None)
        plan.downgrades.append("response_format")
    else:
        name = plan.names.sent(asked.name or _JSON_FUNCTION)
        purpose = asked.description or (_JSON_FUNCTION_PURPOSE if asked.schema else _FREE_OBJECT_PURPOSE)
        plan.body.functions = [SentFunction(name=name, description=purpose, parameters=schema)]
        plan.body.function_call = ForcedFunction(name)
        plan.structured = True


def _instruct(messages: list[SentMessage], schema: dict[str, Any] | None) -> None:
    """Ask for JSON in the system message."""
    text = _JSON_INSTRUCTION
    if schema is not None:
        text += f" The object matches this JSON Schema: {encode_json(schema).decode()}"
    if messages[0].role == "system":
        messages[0].content += f"\n\n{text}"
    else:
        messages.insert(0, SentMessage("system", text))
