"""What a surface does: a request's bytes → a `Call`; the events of an answer → the client's bytes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct

from xrouter.context import Call, Cost
from xrouter.errors import XRouterError
from xrouter.events import Event, Usage

NANO: Final = 10**9

encode: Final = msgspec.json.Encoder(decimal_format="number").encode


class AnswerHead(Struct, frozen=True):
    """What the top of every answer says. `model` is the name that the client asked for."""

    id: str
    model: str
    created: int
    provider: str
    always_usage: bool = False  # OpenRouter's clients get usage in every stream, OpenAI's where they ask for it


class Renderer(ABC):
    """One answer on its way to the client. Used once, never awaits."""

    streams: ClassVar[bool]

    def __init__(self, head: AnswerHead, call: Call) -> None:
        self.head = head
        self.call = call

    @abstractmethod
    def feed(self, events: Sequence[Event]) -> bytes:
        """What the client gets of `events` now; b'' for an answer that is sent whole."""

    @abstractmethod
    def end(self, usage: Usage | None, cost: Cost | None) -> bytes:
        """The rest: the whole body, or a stream's last events."""

    def failed(self, error: XRouterError) -> bytes:
        """A stream's last event when it breaks after the first byte."""
        raise NotImplementedError


def credits(nano: int) -> Decimal:
    """Nanocredits as credits, exact: the form in which amounts leave as JSON numbers."""
    amount = Decimal(nano).scaleb(-9)
    whole = amount.to_integral_value()
    return whole if whole == amount else amount.normalize()


def usage_object(usage: Usage, cost: Cost | None) -> dict[str, Any]:
    """OpenAI's `usage` with OpenRouter's `cost`. Details that the provider did not report are left out, never null."""
    body: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    if usage.cached_tokens is not None:
        body["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        body["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    if cost is not None:
        body["cost"] = credits(cost.nano)
        body["is_byok"] = False
        body["cost_details"] = {
            "upstream_inference_prompt_cost": credits(cost.nano - cost.output_nano),
            "upstream_inference_completions_cost": credits(cost.output_nano),
        }
    return body
