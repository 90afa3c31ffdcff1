"""The configured upstreams, running: a provider's protocol and the credentials that its calls go out with."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from xrouter.config.settings import UpstreamSettings
from xrouter.providers.base import Provider
from xrouter.registry import provider_class
from xrouter.retries import RetryBudget
from xrouter.upstream.caller import Caller
from xrouter.upstream.credentials import Credentials
from xrouter.world import World


@dataclass(frozen=True, slots=True)
class Upstream:
    name: str
    settings: UpstreamSettings
    provider: Provider
    credentials: Credentials
    retry_budget: RetryBudget
    shadow_results: Counter[str] = field(default_factory=Counter)  # how copies of calls have ended, by result


def build_upstreams(settings: Mapping[str, UpstreamSettings], world: World) -> dict[str, Upstream]:
    """One `Upstream` per configured name. No I/O: connections are made by the first call."""
    return {name: _build(name, upstream, world) for name, upstream in settings.items()}


def _build(name: str, settings: UpstreamSettings, world: World) -> Upstream:
    provider: Provider = provider_class(settings.provider)(settings, world)
    callers = [
        Caller(
            f"{name}[{index}]" if provider.credentials > 1 else name,
            settings,
            provider.sign_in(index),
            provider.default_concurrency,
            world,
        )
        for index in range(provider.credentials)
    ]
    return Upstream(name, settings, provider, Credentials(callers, settings.quota_rest_s, world), RetryBudget(world))
