"""What a provider is: a protocol that we speak, as sans-IO translators.

Everything that is one provider's (URLs, shapes, errors, streaming quirks) is in its files; dispatch knows none of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Any, ClassVar

from msgspec import Struct

from xrouter.config.settings import ModelSettings, UpstreamSettings
from xrouter.context import Call, Target
from xrouter.errors import XRouterError
from xrouter.events import Event, Usage
from xrouter.upstream.base import Headers, UpstreamAnswer, UpstreamRequest
from xrouter.upstream.signin import SignIn, TokenFlow
from xrouter.world import World

Exchange = Generator[UpstreamRequest, UpstreamAnswer, UpstreamRequest]
"""The requests of one call: each yielded one is answered whole, the returned one is the call itself, answered through
`feed`. A GigaChat call with images uploads them first."""

CountExchange = Generator[UpstreamRequest, UpstreamAnswer, Sequence[int]]
"""The requests of one token count, each answered whole; returns the tokens of each text, or of a chat the one total."""


class Purpose(Struct, frozen=True):
    """What a translator may know of a request besides the call: nothing that identifies a person to the provider.

    `conversation` is stable for one client and one conversation, and unlike for any other client: what a provider's prompt
    cache goes by; '' for a provider that has no use for it. `credential`: which of the upstream's credentials signs.
    """

    generation_id: str
    request_id: str
    conversation: str
    model: ModelSettings
    credential: int = 0


class Translator(ABC):
    """One call at one upstream: its requests, then its answer's bytes turned into events. Used once, never awaits."""

    usage: Usage | None = None
    upstream_id: str | None = None  # the provider's id for this answer, for the operator's log
    upstream_model: str | None = None  # the exact model that the provider says served
    downgrades: Sequence[str] = ()  # parameters that could not be kept as asked, told in a response header

    @abstractmethod
    def exchange(self) -> Exchange | UpstreamRequest:
        """The call's requests; the call alone where nothing can go before it, since a generator takes 0.6 µs.

        Raises BadRequest for what this provider cannot express (before anything is yielded).
        """

    def started(self, status: int, headers: Headers) -> None:  # noqa: B027  most providers have nothing to check
        """The head of a 2xx answer has come. Raises UpstreamProtocolError if it cannot be this provider's."""

    @abstractmethod
    def feed(self, data: bytes) -> Sequence[Event]:
        """The next piece of a 2xx answer's body, cut anywhere. Raises UpstreamError for an error inside the body.

        If events stand before the error in the same piece, they are given, and `finish` raises it.
        """

    @abstractmethod
    def finish(self) -> Sequence[Event]:
        """The body has ended. Raises UpstreamProtocolError if it ended before the answer did."""

    @property
    def complete(self) -> bool:
        """The answer is whole, whether or not the body has ended: nothing that could still come would matter."""
        return False

    @abstractmethod
    def error(self, answer: UpstreamAnswer) -> XRouterError:
        """What an answer other than 2xx means to the client."""


class Provider(ABC):
    """One configured upstream's protocol. Holds no connection; made once per upstream."""

    Config: ClassVar[type[UpstreamSettings]]
    default_concurrency: ClassVar[int | None] = None  # of one credential
    uses_conversation: ClassVar[bool] = True  # whether `Purpose.conversation` is worth finding out
    supported_parameters: ClassVar[frozenset[str]]  # request fields that have an effect (OpenRouter's names)

    @abstractmethod
    def __init__(self, config: Any, world: World) -> None: ...

    @property
    def credentials(self) -> int:
        """How many credentials there are, each with a limit of its own at the provider."""
        return 1

    @abstractmethod
    def sign_in(self, credential: int = 0) -> SignIn | TokenFlow:
        """How requests are signed with that credential: with fixed headers, or with tokens from a flow."""

    @abstractmethod
    def translator(self, call: Call, target: Target, purpose: Purpose) -> Translator: ...

    @abstractmethod
    def list_models(self) -> UpstreamRequest:
        """The request for the upstream's own list of models."""

    @abstractmethod
    def read_models(self, answer: UpstreamAnswer) -> Sequence[str]:
        """The ids of the chat and embedding models in that list."""

    def parameters(self, model: ModelSettings, target: Target) -> frozenset[str]:
        """The request fields that `model` honours here."""
        return self.supported_parameters

    def count(self, call: Call, target: Target, purpose: Purpose) -> CountExchange | None:
        """How to let the provider count the tokens of `call`; None where it has no way to.

        Raises BadRequest for what the call itself would be refused for.
        """
        return None
