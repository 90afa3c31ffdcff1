"""Which limits hold for whom: the configuration's limits, sorted by when a request's part in them is known."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import translate
from typing import Final

from xrouter.config.settings import DEFAULT_TIER, Strategy, Tier
from xrouter.limits.limit import MICRO, Kind, Limit, Per, parse_rate

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,99}")
_RATES: Final[tuple[Kind, ...]] = ("requests", "tokens", "input_tokens", "output_tokens", "credits")
_KNOWN_EARLY: Final[frozenset[Per]] = frozenset({"key", "account", "ip", "tier"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """One item of the filter's `limits`. Each kind that it names is a limit of its own."""

    per: Per
    requests: str | None = None
    tokens: str | None = None
    input_tokens: str | None = None
    output_tokens: str | None = None
    credits: str | None = None
    concurrency: int | None = None
    strategy: Strategy = "sliding_window"
    burst: int | None = None
    models: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    shadow: bool = False
    per_credit: bool = False
    most: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not list(self.limits()):
            raise ValueError(
                "a limit says how much: requests, tokens, input_tokens, output_tokens, credits, concurrency"
            )
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError("concurrency has to be at least 1")
        if self.burst is not None and (self.strategy != "token_bucket" or self.burst < 1):
            raise ValueError("burst is a number of at least 1, and only `strategy: token_bucket` has it")
        if self.per_credit != (self.most is not None) or (self.most is not None and self.most < 1):
            raise ValueError("`per_credit: true` and `most`, a number of at least 1, go together")
        if self.per_credit and (
            self.per not in ("key", "account") or self.concurrency is not None or self.burst is not None
        ):
            raise ValueError("`per_credit` is for rates per key or account, without concurrency and burst")
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise ValueError("a limit's name is up to 100 letters, digits and _ . / -")

    def limits(self) -> Iterator[Limit]:
        """Raises ValueError for a rate that is none."""
        rates = {kind: text for kind in _RATES if (text := getattr(self, kind)) is not None}
        alone = len(rates) + (self.concurrency is not None) == 1
        for kind, text in rates.items():
            rate = parse_rate(text)
            unit = MICRO if kind == "credits" else 1
            yield Limit(
                name=self._name(kind, text, alone),
                per=self.per,
                kind=kind,
                amount=rate.amount * unit,
                window_s=rate.window_s,
                strategy=self.strategy,
                burst=(self.burst or rate.amount) * unit,
                shadow=self.shadow,
                models=self.models,
                credits_most=(self.most or 0) * unit,
            )
        if self.concurrency is not None:
            name = self._name("concurrency", str(self.concurrency), alone)
            models, shadow = self.models, self.shadow
            yield Limit(
                name=name, per=self.per, kind="concurrency", amount=self.concurrency, shadow=shadow, models=models
            )

    def _name(self, kind: Kind, text: str, alone: bool) -> str:
        if self.name is not None:
            return self.name if alone else f"{self.name}.{kind}"
        return f"{self.per}.{kind}.{_slug(text)}{'/credit' if self.per_credit else ''}"


def _slug(text: str) -> str:
    """`5 per 10 seconds` → `5/10-seconds`: a name without spaces, for headers and metrics."""
    return re.sub(r"\s+", "-", re.sub(r"\s*(?:/|\bper\b)\s*", "/", text.strip().lower()))


def tier_limits(name: str, tier: Tier) -> tuple[Limit, ...]:
    """What the tier allows each of its keys."""
    rates: list[tuple[Kind, str]] = [("requests", text) for text in tier.requests]
    rates += [("tokens", text) for text in tier.tokens]
    limits = []
    for kind, text in rates:
        rate = parse_rate(text)
        limits.append(
            Limit(
                name=f"{name}.{kind}.{_slug(text)}",
                per="key",
                kind=kind,
                amount=rate.amount,
                window_s=rate.window_s,
                strategy=tier.strategy,
                burst=rate.amount,
            )
        )
    if tier.concurrency is not None:
        limits.append(Limit(name=f"{name}.concurrency", per="key", kind="concurrency", amount=tier.concurrency))
    return tuple(limits)


@dataclass(frozen=True, slots=True)
class TierRules:
    """The limits of one tier's keys.

    `early` ones can be counted when a request comes; `late` ones once its model, user and tokens are known. `exhausted` are
    those of the late ones for which an early look can tell that nothing is left.
    """

    early: tuple[Limit, ...]
    exhausted: tuple[Limit, ...]
    late: tuple[Limit, ...]
    by_model: bool  # some of the late ones hold for some models only
    first: tuple[tuple[Limit, int], ...]  # what step 1 takes of each: 1 of the early ones, and of the exhausted a look


class Rules:
    """All limits, by the tier of the key that calls. Raises ValueError if two limits for one tier have one name."""

    def __init__(self, tiers: Mapping[str, Tier], extra: Iterable[LimitSettings]) -> None:
        extra = tuple(extra)
        self.default_tier = DEFAULT_TIER if DEFAULT_TIER in tiers else None  # that of keys without one
        self._without = _rules(None, (), extra)
        self._by_tier: dict[str | None, TierRules] = {
            name: _rules(name, tier_limits(name, tier), extra) for name, tier in tiers.items()
        }
        self._by_tier[None] = self._by_tier.get(self.default_tier, self._without)
        self._patterns = {pattern: re.compile(translate(pattern)) for item in extra for pattern in item.models}

    @property
    def need_estimate(self) -> bool:
        """Whether any limit can only be taken once a request's tokens are counted."""
        return any(rules.late for rules in (self._without, *self._by_tier.values()))

    def of(self, tier: str | None) -> TierRules:
        """A key's tier that the configuration no longer has counts as none."""
        return self._by_tier.get(tier, self._without)

    def names(self, limit: Limit, models: Iterable[str]) -> bool:
        """Whether the limit is one for these models."""
        if not limit.models:
            return True
        return any(self._patterns[pattern].match(model) for pattern in limit.models for model in models)


def _rules(tier: str | None, own: tuple[Limit, ...], extra: Iterable[LimitSettings]) -> TierRules:
    limits = [*own, *(limit for item in extra if not item.tiers or tier in item.tiers for limit in item.limits())]
    seen: set[str] = set()
    for limit in limits:
        if limit.name in seen:
            raise ValueError(f"two limits are called {limit.name}; give one of them another `name`")
        seen.add(limit.name)
    known_early = [limit for limit in limits if limit.per in _KNOWN_EARLY and not limit.models]
    early = tuple(limit for limit in known_early if limit.kind in ("requests", "concurrency"))
    exhausted = tuple(limit for limit in known_early if limit not in early)
    late = tuple(limit for limit in limits if limit not in early)
    first = tuple([(limit, 1) for limit in early] + [(limit, 0) for limit in exhausted])
    return TierRules(early, exhausted, late, any(limit.models for limit in late), first)
