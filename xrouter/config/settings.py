"""The configuration as typed values: what the rest of the program is given, whatever it was written in.

Field docstrings are not repeated in docs by hand: `tests/test_docs.py` holds every field against docs/configuration.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Final, Literal

from xrouter.secret import Secret

Strategy = Literal["fixed_window", "sliding_window", "token_bucket"]
"""How a limit counts; xrouter.limits.windows says what each means."""

DEFAULT_TIER: Final = "default"
"""The tier of a key without one, if the configuration has it."""

Balance = Literal["weighted", "least_busy", "latency", "cheapest", "order"]
"""Which of a model's routes goes first; xrouter.routing.balance says what each means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    reuse_port: bool = False  # another instance may listen at the same address: how a new version takes over
    watch_config: bool = True  # a changed configuration file is loaded; a broken one is refused whole and reported
    drain_delay_s: float = 0.0  # from SIGTERM until the listener closes: a balancer has to notice first
    drain_s: float = 30.0
    header_timeout_s: float = 10.0  # the whole head of a request must have come by then
    body_timeout_s: float = 30.0  # the longest pause while a body is coming
    idle_timeout_s: float = 75.0  # a kept-alive connection without a request
    queue_s: float = 2.0  # the longest that a request waits to begin; one that would wait longer is answered 503
    write_timeout_s: float = 60.0  # a client that takes no byte for so long is cut off
    max_header_bytes: int = 32 * 1024
    max_headers: int = 100
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose X-Forwarded-For is believed


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    token: Secret = Secret("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    ca_file: str | None = None  # PEM, added to the system's store
    verify: bool = True
    cert_file: str | None = None  # client certificate, PEM
    key_file: str | None = None
    key_password: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    connect_s: float = 10.0
    first_byte_s: float = 60.0
    idle_s: float = 180.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Asking an upstream for its list of models, while no request tells how it does."""

    interval_s: float = 15.0
    timeout_s: float = 5.0
    failures: int = 2  # in a row, after which all its models are left alone


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """What every upstream has. A provider's own Config adds its keys: credentials, scope, folder, …"""

    bills_cached_input: ClassVar[bool] = True  # whether the provider bills cached input; a price can say otherwise
    obeys_deny: ClassVar[bool] = False  # whether the provider keeps nothing of a call that is sent with that wish

    provider: str
    base_url: str
    tls: Tls = field(default_factory=Tls)
    timeouts: Timeouts = field(default_factory=Timeouts)
    concurrency: int | None = None  # simultaneous calls of each credential; None: the provider's own default
    queue_s: float = 30.0  # the longest wait for a free place
    quota_rest_s: float = 600.0  # how long one of several credentials is left alone once its package is used up
    engine: Literal["http1", "httpx2"] | None = None  # None: http1, or httpx2 where `proxy` is set
    proxy: str | None = field(default=None, repr=False)  # may hold a password
    keep_alive_s: float = 30.0  # an idle pooled connection is closed after that
    probe: Probe | None = None  # None: what its requests tell is enough
    data_collection: Literal["allow", "deny"] | None = None  # whether it may keep what it is sent; None: `obeys_deny`
    zdr: bool = False  # zero data retention: nothing is kept, not even for a while


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Credits per `per` tokens.

    `reasoning` defaults to `output`; `cached_input` to `input`, or to 0 where the provider does not bill cached tokens.
    """

    input: Decimal
    output: Decimal = Decimal(0)
    cached_input: Decimal | None = None
    reasoning: Decimal | None = None
    image: Decimal | None = None  # per image
    request: Decimal = Decimal(0)  # per request
    per: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Price(Rates):
    """What a model is sold for. `since`: the date (YYYY-MM-DD, UTC) from which on. `cost`: what the provider asks."""

    since: str | None = None
    cost: Rates | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    upstream: str
    model: str
    surface: Literal["native", "openai"] | None = None
    weight: int | None = None  # None: 1 where another route has one; 0: only if the others fail
    canary: float = 0.0  # percent of the requests that try this route first; the others only if all else fails
    shadow: float = 0.0  # percent of the requests that are copied here; nothing is ever answered from here
    price: Price | Literal["free"] | None = None  # None: the model's


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    routes: tuple[RouteSettings, ...]
    name: str | None = None
    description: str | None = None
    kind: Literal["chat", "embedding"] = "chat"
    context: int | None = None
    max_output: int | None = None
    aliases: tuple[str, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)  # suffix → branch of the upstream's model
    inputs: tuple[Literal["text", "image"], ...] = ("text",)
    tools: bool = True
    reasoning: bool = False
    json_schema: Literal["native", "function"] | None = None  # None: the provider's default way
    balance: Balance | None = None  # None: weighted if a route has a weight, else the order as written
    sticky: bool = True  # whether a conversation stays where it is while that is well, for the provider's prompt cache
    price: Price | Literal["free"] | None = None
    price_changes: tuple[Price, ...] = ()  # each in force from its `since` on, until the next
    variant_prices: Mapping[str, Price | Literal["free"]] = field(default_factory=dict)  # None given: the model's
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    hold_lease_s: float = 60.0
    keep_holds_days: int | None = 90  # of holds that have ended; None: for ever
    journal: str | None = None  # the folder where settlements wait for the store; None: ledger/opening.py says which
    keep_details_days: int | None = 365  # of generations: attempts, times, who asked; charges do not depend on them


@dataclass(frozen=True, slots=True, kw_only=True)
class TierQuota:
    """Credits that each key may spend; windows are UTC days, weeks from Monday, calendar months. None: no bound."""

    total: Decimal | None = None
    day: Decimal | None = None
    week: Decimal | None = None
    month: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    requests: tuple[str, ...] = ()  # "20/minute", as the limits package writes them
    tokens: tuple[str, ...] = ()
    concurrency: int | None = None
    strategy: Strategy = "sliding_window"
    quota: TierQuota | None = None
    models: tuple[str, ...] | None = None  # ids, or `author/*`; None: all
    upstreams: tuple[str, ...] | None = None  # None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterEntry:
    """One line of `filters`: the name or path as written, its decoded Config, and where it stands."""

    name: str
    filter: type[Any]
    config: Any
    place: str  # file:line:column


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    upstreams: Mapping[str, UpstreamSettings]
    models: Mapping[str, ModelSettings]
    filters: tuple[FilterEntry, ...]
    server: Server = field(default_factory=Server)
    store: str = field(default="sqlite:///xrouter.db", repr=False)  # may hold a password, as may the next
    redis: str | None = field(default=None, repr=False)
    admin: Admin = field(default_factory=Admin)
    ledger: Ledger = field(default_factory=Ledger)
    tiers: Mapping[str, Tier] = field(default_factory=dict)
