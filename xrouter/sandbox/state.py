"""Everything that one sandbox remembers: counters, gauges, limits, chosen scenarios, tokens, files, operations.

The emulators write it on their loop's thread. Tests read it from theirs: a counter, a gauge and a snapshot need no lock,
and what a test may change (`choose`, `advance`, `reset`, `revoke_tokens`) is guarded by one.
"""

import hashlib
import threading
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from xrouter.sandbox.config import SandboxConfig
from xrouter.sandbox.scenario import Scenario, parse
from xrouter.world import RealWorld, World

_RECORDED_BODY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request as it came. `headers` have lower-case names; a body is kept up to 1 MiB."""

    provider: str
    method: str
    path: str  # without the provider's prefix
    headers: dict[str, str]
    body: bytes
    at: float  # the sandbox's clock, seconds since the epoch


@dataclass(slots=True)
class Gauge:
    """How many are inside now, and the most that ever were."""

    now: int = 0
    peak: int = 0

    def enter(self) -> None:
        self.now += 1
        self.peak = max(self.peak, self.now)

    def leave(self) -> None:
        self.now -= 1


@dataclass(slots=True)
class _Queued:
    scenario: Scenario
    provider: str | None
    path: str | None  # the end of the paths that it is for
    left: int

    def fits(self, provider: str, path: str) -> bool:
        return self.provider in (None, provider) and (self.path is None or path.endswith(self.path))


@dataclass(frozen=True, slots=True)
class Token:
    """An access token that the sandbox has issued. `holder`: whose concurrency and package it uses."""

    holder: str
    scope: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class StoredFile:
    id: str
    holder: str
    filename: str
    content_type: str
    content: bytes
    created_at: int


@dataclass(frozen=True, slots=True)
class Operation:
    """An asynchronous generation; `response` or `error` is JSON text that is told once `ready_at` has passed."""

    id: str
    description: str
    created_at: float
    ready_at: float
    response: bytes
    error: bytes


@dataclass(frozen=True, slots=True)
class ServiceAccountKey:
    """An authorised key of a Yandex service account, without its private half."""

    service_account: str
    public_pem: str


@dataclass(slots=True)
class CachedPrompt:
    """A session's newest prompt: a digest and the tokens of each message."""

    messages: list[tuple[bytes, int]]
    expires_at: float


class SandboxState:
    def __init__(self, config: SandboxConfig, world: World | None = None) -> None:
        self.config = config
        self.world = world or RealWorld()
        self.service_accounts: dict[str, ServiceAccountKey] = {}  # key id → its owner and public half
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self.offset_s = 0.0
        self.calls: Counter[str] = Counter()  # "gigachat /v1/models/{id}" → requests
        self.statuses: Counter[str] = Counter()  # "gigachat 429" → answers
        self.aborted: Counter[str] = Counter()  # provider → answers that the client did not wait for
        self.in_flight: dict[str, Gauge] = {}  # provider → requests under way
        self.generations: dict[str, Gauge] = {}  # holder of a limit → generations under way
        self.requests: deque[RecordedRequest] = deque(maxlen=self.config.recorded_requests)
        self.tokens: dict[str, Token] = {}
        self.files: dict[str, StoredFile] = {}
        self.operations: dict[str, Operation] = {}
        self.prompts: dict[str, CachedPrompt] = {}
        self.packages: dict[tuple[str, str], int] = {}  # (holder, model) → tokens left
        self.iam_tokens: dict[str, str] = {}  # service account → its newest token
        self._windows: dict[str, deque[float]] = {}
        self._repeats: Counter[str] = Counter()
        self._queue: list[_Queued] = []
        self._serial = 0

    def reset(self) -> None:
        """Forget everything, issued tokens included; registered service accounts stay."""
        with self._lock:
            self._clear()

    # Time

    def now(self) -> float:
        """Seconds since the epoch on the sandbox's clock."""
        return self.world.now() + self.offset_s

    def advance(self, seconds: float) -> None:
        """Move the sandbox's clock: tokens expire, caches cool, operations finish."""
        with self._lock:
            self.offset_s += seconds

    # Identifiers

    def unique_id(self, kind: str) -> uuid.UUID:
        """The next identifier of a kind: the same series after every reset."""
        self._serial += 1
        return uuid.UUID(bytes=hashlib.blake2b(f"{kind} {self._serial}".encode(), digest_size=16).digest(), version=4)

    # Scenarios

    def choose(
        self, scenario: str | Scenario, *, times: int = 1, provider: str | None = None, path: str | None = None
    ) -> None:
        """Give the next `times` requests this scenario; only those of `provider` and whose path ends in `path`, if told."""
        chosen = parse(scenario) if isinstance(scenario, str) else scenario
        with self._lock:
            self._queue.append(_Queued(chosen, provider, path, times))

    def queued(self, provider: str, path: str) -> Scenario | None:
        """The scenario that `choose` has set for this request, used up by asking."""
        if not self._queue:
            return None
        with self._lock:
            for queued in self._queue:
                if queued.fits(provider, path):
                    queued.left -= 1
                    if queued.left <= 0:
                        self._queue.remove(queued)
                    return queued.scenario
        return None

    def due(self, key: str, times: int | None) -> bool:
        """Whether a scenario with `times` applies now: `times` requests of one key, then not to one, and so on."""
        if times is None:
            return True
        turn = self._repeats[key] % (times + 1)
        self._repeats[key] += 1
        return turn < times

    # Limits

    def admit(self, key: str, per_s: int | None) -> bool:
        """Whether one more request keeps `key` within `per_s` in any second."""
        if per_s is None:
            return True
        now = self.now()
        window = self._windows.setdefault(key, deque())
        while window and window[0] <= now - 1.0:
            window.popleft()
        if len(window) >= per_s:
            return False
        window.append(now)
        return True

    @contextmanager
    def generation(self, holder: str, limit: int | None) -> Iterator[bool]:
        """A place among a holder's simultaneous generations, until the block ends; False: there was none."""
        gauge = self.generations.setdefault(holder, Gauge())
        if limit is not None and gauge.now >= limit:
            yield False
            return
        gauge.enter()
        try:
            yield True
        finally:
            gauge.leave()

    @contextmanager
    def request(self, recorded: RecordedRequest, counted_as: str) -> Iterator[None]:
        """Count a request by its route, and keep it; it is in flight until the block ends."""
        self.calls[f"{recorded.provider} {counted_as}"] += 1
        if len(recorded.body) > _RECORDED_BODY_BYTES:
            recorded = RecordedRequest(
                recorded.provider,
                recorded.method,
                recorded.path,
                recorded.headers,
                recorded.body[:_RECORDED_BODY_BYTES],
                recorded.at,
            )
        self.requests.append(recorded)
        gauge = self.in_flight.setdefault(recorded.provider, Gauge())
        gauge.enter()
        try:
            yield
        finally:
            gauge.leave()

    # Tokens

    def token(self, value: str) -> Token | None:
        """An issued token, expired or not."""
        return self.tokens.get(value)

    def issue(self, value: str, token: Token) -> None:
        if len(self.tokens) > 1000:  # a long run renews for ever; what has expired needs no memory
            now = self.now()
            self.tokens = {known: each for known, each in self.tokens.items() if each.expires_at > now}
        self.tokens[value] = token

    def revoke_tokens(self) -> None:
        """Every token issued so far is unknown from now on."""
        with self._lock:
            self.tokens = {}
            self.iam_tokens = {}

    # Reading from a test

    def requests_of(self, provider: str, path: str | None = None) -> list[RecordedRequest]:
        """The recorded requests of a provider, oldest first; only those whose path ends in `path`, if told."""
        recorded = list(self.requests)
        return [each for each in recorded if each.provider == provider and (path is None or each.path.endswith(path))]

    def last(self, provider: str, path: str | None = None) -> RecordedRequest:
        """The newest such request. Raises LookupError if there was none."""
        found = self.requests_of(provider, path)
        if not found:
            raise LookupError(f"the sandbox has seen no request of {provider} {path or ''}")
        return found[-1]

    def count(self, provider: str, path: str | None = None) -> int:
        """How many requests of a provider have come; only those whose path ends in `path`, if told."""
        calls = dict(self.calls)
        keys = ((key, *key.split(" ", 1)) for key in calls)
        return sum(calls[key] for key, who, where in keys if who == provider and (path is None or where.endswith(path)))

    def snapshot(self) -> "Snapshot":
        return Snapshot(
            calls=dict(self.calls),
            statuses=dict(self.statuses),
            aborted=dict(self.aborted),
            in_flight={name: gauge.now for name, gauge in list(self.in_flight.items())},
            peak_in_flight={name: gauge.peak for name, gauge in list(self.in_flight.items())},
            generations={name: gauge.now for name, gauge in list(self.generations.items())},
            peak_generations={name: gauge.peak for name, gauge in list(self.generations.items())},
            tokens_issued=len(self.tokens),
            files=len(self.files),
            operations=len(self.operations),
            clock_offset_s=self.offset_s,
            scenarios_queued=sum(queued.left for queued in list(self._queue)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The numbers of /admin/state. A generation's holder is a digest where it would be a credential."""

    calls: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    aborted: dict[str, int] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)
    peak_in_flight: dict[str, int] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    peak_generations: dict[str, int] = field(default_factory=dict)
    tokens_issued: int = 0
    files: int = 0
    operations: int = 0
    clock_offset_s: float = 0.0
    scenarios_queued: int = 0
