"""What one request carries down the chain: typed facts, each written once, by one writer.

| fact        | written by                | read by                                  |
|-------------|---------------------------|------------------------------------------|
| principal   | auth                      | rate_limit, routing, quota, log          |
| call        | body                      | routing, token_count, quota, dispatch    |
| route       | routing                   | quota (dearest price), dispatch          |
| estimate    | token_count               | rate_limit, quota, dispatch              |
| quote       | quota                     | dispatch (cost in the answer), log       |
| outcome     | dispatch, on the way up   | quota, rate_limit, log                   |

The request id, the generation id, the endpoint and the times are set by `edge` when it makes the context. A plugin keeps
its own data in `ctx.stash` under a key object of its own.
"""

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, NoReturn, Protocol, TypeVar, overload

import msgspec
from msgspec import Struct

from xrouter.errors import XRouterError
from xrouter.events import Usage
from xrouter.wire import ChatRequest, CompletionRequest, EmbeddingRequest, Message, Request

T = TypeVar("T")
End = Literal["complete", "client_abort", "upstream_error", "shutdown"]
AttemptReason = Literal["first", "fallback", "retry", "credential", "hedge", "shadow"]
"""Why an upstream was called: the request's first try; after another target had failed; again after all had; with another
credential of the same upstream; beside a slow one; as a copy that nobody waits for."""
ClientAbort = Literal["bill_delivered", "drain_and_bill", "cancel"]
Scope = MutableMapping[str, Any]


class ContractError(Exception):
    """A filter read a fact that nobody wrote, or wrote one twice: a mistake in the program, not in the request."""


class Once(property, Generic[T]):
    """A fact: reading it before it is written, or writing it twice, is a `ContractError` that names it.

    Kept as an item of the context under the fact's name. Facts are read some twenty times a request, so reading runs no
    Python code: a property over `itemgetter` takes 0.05 µs, a descriptor of our own took 0.09.
    """

    def __init__(self, name: str) -> None:
        def write(context: "RequestContext", value: T) -> None:
            if name in context:
                raise ContractError(f"`{name}` is already provided")
            context[name] = value

        super().__init__(itemgetter(name), write)

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def __get__(self, instance: None, owner: type) -> "Once[T]": ...
        @overload
        def __get__(self, instance: "RequestContext", owner: type) -> T: ...
        def __get__(self, instance: "RequestContext | None", owner: type) -> "Once[T] | T": ...
        def __set__(self, instance: "RequestContext", value: T) -> None: ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation of the HTTP contract. `inference` ones reach an upstream and go through the whole chain."""

    name: str  # "chat", "completions", "embeddings", "models", …
    method: str
    inference: bool
    management: bool = False  # needs a management key or the admin token


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling."""

    key_id: str  # the key's public hash; safe to log
    account: str
    name: str = ""
    tier: str | None = None
    models: frozenset[str] | None = None  # the models this key may use; None: all
    management: bool = False
    operator: bool = False  # the admin token: manages every account


@dataclass(frozen=True, slots=True)
class Call:
    """What the client asks for, decoded and checked once.

    `body` is the JSON object as it came, with fields that we do not know; `request` the same, typed. `raw` is the very
    bytes that came, or None once the call was rewritten.
    """

    kind: Literal["chat", "completions", "embeddings"]
    request: Request
    body: dict[str, Any]
    raw: bytes | None = None

    @property
    def stream(self) -> bool:
        request = self.request
        return not isinstance(request, EmbeddingRequest) and request.stream is True

    @property
    def models(self) -> tuple[str, ...]:
        """The models asked for, most wanted first: `model`, then OpenRouter's `models`."""
        request = self.request
        if not request.models:
            return (request.model,) if request.model else ()
        return tuple(dict.fromkeys([request.model, *request.models] if request.model else request.models))

    def prompt(self) -> list[str]:
        """The texts that the model will read, one per message, prompt or input."""
        match self.request:
            case ChatRequest(messages=messages):
                return [_message_text(message) for message in messages]
            case CompletionRequest(prompt=prompt):
                return [prompt] if isinstance(prompt, str) else list(prompt)
            case EmbeddingRequest(input=inputs):
                return [inputs] if isinstance(inputs, str) else [item for item in inputs if isinstance(item, str)]

    def map_text(self, change: Callable[[str], str]) -> "Call":
        """The same call with `change` applied to every text that a person wrote: message contents, prompt, input."""
        body = dict(self.body)
        if "messages" in body:
            body["messages"] = [
                {**message, "content": _map_content(message["content"], change)} if message.get("content") else message
                for message in body["messages"]
            ]
        for key in ("prompt", "input"):
            if key in body:
                body[key] = _map_content(body[key], change)
        return replace(self, request=msgspec.convert(body, type(self.request)), body=body, raw=None)


def _message_text(message: Message) -> str:
    if message.tool_calls is None and type(message.content) is str:
        return message.content
    text = message.text()
    for call in message.tool_calls or ():
        text += call.function.name + call.function.arguments
    return text


def _map_content(content: Any, change: Callable[[str], str]) -> Any:
    if isinstance(content, str):
        return change(content)
    if isinstance(content, list):
        return [
            {**item, "text": change(item["text"])}
            if isinstance(item, dict) and isinstance(item.get("text"), str)
            else change(item)
            if isinstance(item, str)
            else item
            for item in content
        ]
    return content


class Target(Struct, frozen=True):
    """One place that can serve the call: a configured upstream and the model's name there."""

    upstream: str
    model: str  # the provider's own model id, e.g. GigaChat-2-Max, yandexgpt/rc
    public_model: str  # the configured id that is being served, e.g. gigachat/max: what price and policy go by
    surface: str | None = None  # which of the provider's APIs, where it has several ("native" | "openai")


class Route(Struct, frozen=True):
    """The targets to try, in order. `requested` is the model name as the client wrote it, echoed in the answer.

    `shadows` get a copy of the call whose answer nobody sees and nobody pays for. `hedge_after_s`: how long the first
    target may be silent before the next is asked beside it; None: never.
    """

    requested: str
    targets: tuple[Target, ...]
    retries: int = 0
    shadows: tuple[Target, ...] = ()
    hedge_after_s: float | None = None


class Estimate(Struct, frozen=True):
    """Tokens as counted here before the call: what a hold and a token limit go by until the provider reports."""

    input_tokens: int
    output_cap: int | None  # the client's own bound, None if it set none
    count: Callable[[str], int]  # the same counter, for text of the answer


class Cost(NamedTuple):
    """What an answer costs, nanocredits. `output_nano`: the part of its output; the rest is the prompt's."""

    nano: int
    output_nano: int


class Quote(Protocol):
    """The price fixed at admission."""

    def cost(self, usage: Usage, target: Target | None = None) -> int:
        """Nanocredits for `usage` at the price of `target`, the one that served; without it, at the dearest target's."""

    def parts(self, usage: Usage, target: Target) -> Cost:
        """The same, divided as the client is told it."""


class Attempt(Struct, frozen=True):
    """One try at one target. `status` is the upstream's HTTP status, 0 where none came."""

    upstream: str
    model: str
    status: int
    error: str | None  # the error's type, None if this attempt served
    kind: str | None  # of an upstream's failure: connect, timeout, protocol, status, auth or quota
    started_s: float  # since the request's start
    duration_s: float
    reason: AttemptReason = "first"
    credential: int | None = 0  # which of the upstream's, from 0; None: no call was made, as all of them rest


class Outcome(Struct, frozen=True):
    """How the call ended.

    `end`: complete | client_abort (the client left) | upstream_error (failed, or cut after the first byte) | shutdown.
    `usage` is None if nothing was generated; its source says whether the provider reported it or what was delivered was
    counted here.
    """

    end: End
    usage: Usage | None
    target: Target | None
    attempts: tuple[Attempt, ...] = ()
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    upstream_id: str | None = None
    upstream_model: str | None = None
    first_token_s: float | None = None  # since the request's start
    error: XRouterError | None = None
    pieces: int = 0  # in which the answer came from the upstream


class RequestContext(dict[str, Any]):
    """One request's facts. Made by `edge`, found by `context(scope)`.

    The dict is how `Once` keeps them: a `__getattr__` for the unwritten ones would slow the reading of every other attribute
    fivefold, 4 % of a request. `name in ctx` is `ctx.provided(name)` without the call.
    """

    __slots__ = (
        "client_abort",
        "client_ip",
        "endpoint",
        "generation_id",
        "openrouter",
        "path_args",
        "request_id",
        "response_headers",
        "session_id",
        "shadow_limits",
        "started",
        "started_at",
        "stash",
        "steps",
        "upstream_s",
    )

    def __init__(
        self,
        request_id: str,
        generation_id: str,
        endpoint: Endpoint,
        started: float,
        started_at: float,
        client_ip: str = "",
        session_id: str | None = None,
    ) -> None:
        self.request_id = request_id
        self.generation_id = generation_id
        self.endpoint = endpoint
        self.started = started  # monotonic
        self.started_at = started_at  # wall clock
        self.client_ip = client_ip
        self.path_args: dict[str, str] = {}
        self.session_id = session_id
        self.openrouter = False  # asked under /api/v1, OpenRouter's path
        self.upstream_s = 0.0  # spent waiting for upstreams until the response began; the rest is the gateway's own
        self.client_abort: ClientAbort = "bill_delivered"  # set by quota; drain_and_bill reads on after the client left
        self.response_headers: list[tuple[bytes, bytes]] = []  # added to the response by `edge`
        self.shadow_limits: list[str] | None = None  # names of the limits that would have refused it, set by rate_limit
        self.stash: dict[object, Any] = {}
        self.steps: list[tuple[str, float]] = []  # each filter, and when the request came to it

    def provided(self, fact: str) -> bool:
        """Whether `fact` has been written; for readers that can do without it."""
        return fact in self

    def amend_call(self, call: Call) -> None:
        """Put a rewritten call in the place of the one that `body` provided: how a filter changes a request."""
        self["call"]  # there has to be one
        self["call"] = call

    # One request is not another with the same facts, and is one before it has any.
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return True

    def __missing__(self, fact: str) -> NoReturn:
        raise ContractError(f"no filter has provided `{fact}` for this request")

    principal = Once[Principal]("principal")
    call = Once[Call]("call")
    route = Once[Route]("route")
    estimate = Once[Estimate]("estimate")
    quote = Once[Quote]("quote")
    outcome = Once[Outcome]("outcome")


def context(scope: Scope) -> RequestContext:
    """The context of the request that `scope` belongs to."""
    found: RequestContext = scope["xrouter"]
    return found
