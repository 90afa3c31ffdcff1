"""A provider and filters that configurations in these tests name by path."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from xrouter.config.settings import UpstreamSettings
from xrouter.config.size import ByteSize
from xrouter.secret import Secret

_ONE_BYTE = ByteSize(1)


class Toy:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(UpstreamSettings):
        base_url: str = "http://127.0.0.1:1/v1"
        api_key: Secret | None = None
        token: Secret = Secret("")
        scope: Literal["ONE", "TWO"] = "ONE"
        auth_url: str = "http://127.0.0.1:1/auth"
        key_file: str | None = None
        wait_s: float = 1.5
        loud: bool = False

        def __post_init__(self) -> None:
            if self.api_key and self.token:
                raise ValueError(f"one of api_key and token, not both ({self.token.reveal()})")


class NotAnUpstream:
    @dataclass(frozen=True)
    class Config:
        pass


class Bare:
    """No Config, no facts."""


class _Passing:
    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()

    @dataclass(frozen=True, slots=True)
    class Config:
        pass

    def __init__(self, app: Any, config: Any, services: Any) -> None:
        self.app = app


class Reader(_Passing):
    provides = frozenset({"call"})


class Router(_Passing):
    needs = frozenset({"call"})
    provides = frozenset({"route"})


class Counter(_Passing):
    needs = frozenset({"estimate"})


@dataclass(frozen=True, slots=True)
class Breaker:
    failures: int = 5
    open_s: float = 10.0


class Everything(_Passing):
    """A field of every kind."""

    @dataclass(frozen=True, slots=True)
    class Config:
        text: str = "x"
        whole: int = 1
        number: float = 1.0
        flag: bool = False
        price: Decimal | None = None
        secret: Secret | None = None
        size: ByteSize = _ONE_BYTE
        choice: Literal["a", "b", 3, True] = "a"
        items: tuple[int, ...] = ()
        table: Mapping[str, float] = field(default_factory=dict)
        either: int | str | None = None
        limited: Breaker | Literal["off"] = "off"
        breaker: Breaker = Breaker()
        pause_s: float | None = None
        maybe: int | None = 7


class Needy(_Passing):
    @dataclass(frozen=True)
    class Config:
        limit: str
        names: tuple[str, ...]


class Failing(_Passing):
    @dataclass(frozen=True)
    class Config:
        text: str = ""

        def __post_init__(self) -> None:
            raise RuntimeError(f"no {self.text}")


class Unsupported(_Passing):
    @dataclass(frozen=True)
    class Config:
        value: complex = 1j


class Unresolved(_Passing):
    @dataclass(frozen=True)
    class Config:
        value: "Nowhere" = None  # type: ignore[name-defined]  # noqa: F821


class NoFacts:
    needs = frozenset({"call"})

    @dataclass(frozen=True)
    class Config:
        pass


class OddFacts:
    needs = "call"
    provides = frozenset[str]()
    Config = NoFacts.Config


class NoConfig:
    needs = frozenset[str]()
    provides = frozenset[str]()


NOT_A_CLASS = 1
