"""The OpenAI-shaped requests, typed. One strict decoding serves every filter and translator after it.

Shapes: OpenAI's API reference for chat completions, completions and embeddings, with OpenRouter's additions (`models`,
`provider`, `reasoning`). Unknown fields are let through to upstreams that speak this protocol, so they stay in
`Call.body`; what is named here is checked. `null` means the same as absence, as both APIs have it.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

PositiveInt = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class ImageUrl(Struct):
    url: str
    detail: str | None = None


class Part(Struct):
    """One piece of a message's content; which of the fields is set follows `type`."""

    type: str
    text: str | None = None
    image_url: ImageUrl | None = None


class FunctionCall(Struct):
    name: str
    arguments: str = ""


class ToolCall(Struct):
    function: FunctionCall
    id: str = ""
    type: str = "function"


class Message(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None

    def text(self) -> str:
        """The content's text; the text parts of a list are joined by a line feed."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if part.text is not None)


class FunctionSpec(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    type: str
    function: FunctionSpec | None = None


class NamedFunction(Struct):
    name: str


class NamedTool(Struct):
    """`tool_choice` that names one function."""

    type: str = "function"
    function: NamedFunction | None = None


class JsonSchema(Struct):
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct):
    type: str
    json_schema: JsonSchema | None = None


class StreamOptions(Struct):
    include_usage: bool | None = None


class Reasoning(Struct):
    """OpenRouter's `reasoning` object."""

    effort: str | None = None
    max_tokens: PositiveInt | None = None
    exclude: bool | None = None
    enabled: bool | None = None


class MaxPrice(Struct):
    """The dearest acceptable price, credits per million tokens (OpenRouter: dollars)."""

    prompt: float | None = None
    completion: float | None = None
    request: float | None = None
    image: float | None = None


class SortBy(Struct):
    """`partition: none` sorts the upstreams of all of the request's models together, not each model's for itself."""

    by: Literal["price", "throughput", "latency"] | None = None
    partition: Literal["model", "none"] | None = None


class Percentiles(Struct):
    """A bound for each percentile of the last half an hour."""

    p50: float | None = None
    p75: float | None = None
    p90: float | None = None
    p99: float | None = None


class ProviderPreferences(Struct):
    """OpenRouter's `provider` object: which upstreams may serve the request, and in which order.

    What is not named here is no upstream's property that XRouter knows of (`quantizations`, `enforce_distillable_text`).
    """

    order: list[str] | None = None
    only: list[str] | None = None
    ignore: list[str] | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    zdr: bool | None = None
    sort: Literal["price", "throughput", "latency"] | SortBy | None = None
    max_price: MaxPrice | None = None
    preferred_min_throughput: float | Percentiles | None = None  # output tokens a second; a number means the p50
    preferred_max_latency: float | Percentiles | None = None  # seconds to the first token


class RoutedRequest(Struct, kw_only=True):
    """What chat, completions and embeddings have in common."""

    model: str | None = None
    models: Annotated[list[str], Meta(max_length=64)] | None = None  # each is looked up, and each unknown one is told
    provider: ProviderPreferences | None = None
    user: str | None = None
    session_id: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, Any] | None = None


class SampledRequest(RoutedRequest, kw_only=True):
    """What chat and completions have in common."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: PositiveInt | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    logit_bias: dict[str, float] | None = None

    def stop_sequences(self) -> tuple[str, ...]:
        """The non-empty stop sequences."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(sequence for sequence in stop if sequence)


class ChatRequest(SampledRequest, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: PositiveInt | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionSpec] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None

    def output_cap(self) -> int | None:
        """The most tokens that the client wants back in each answer."""
        return self.max_completion_tokens or self.max_tokens

    def answers(self) -> int:
        """How many answers are generated: each is paid."""
        return self.n or 1

    def effort(self) -> str | None:
        """Reasoning effort, from OpenAI's field or OpenRouter's object."""
        return self.reasoning_effort or (self.reasoning.effort if self.reasoning else None)


class CompletionRequest(SampledRequest, kw_only=True):
    prompt: str | Annotated[list[str], Meta(min_length=1, max_length=2048)]
    echo: bool | None = None
    suffix: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None

    def output_cap(self) -> int | None:
        return self.max_tokens

    def answers(self) -> int:
        """`n` for each prompt, or as many as the best are chosen from."""
        prompts = 1 if isinstance(self.prompt, str) else len(self.prompt)
        return prompts * max(self.n or 1, self.best_of or 1)


class EmbeddingRequest(RoutedRequest, kw_only=True):
    input: str | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: PositiveInt | None = None
    input_type: str | None = None

    def output_cap(self) -> int | None:
        return 0

    def answers(self) -> int:
        return 1


Request = ChatRequest | CompletionRequest | EmbeddingRequest

decode_json = msgspec.json.Decoder().decode
encode_json = msgspec.json.encode
