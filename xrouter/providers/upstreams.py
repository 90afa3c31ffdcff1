"""The configured upstreams, running: a provider's protocol and the connections that carry it."""

from collections.abc import Mapping
from dataclasses import dataclass

from xrouter.config.settings import UpstreamSettings
from xrouter.providers.base import Provider
from xrouter.registry import provider_class
from xrouter.upstream.caller import Caller
from xrouter.world import World


@dataclass(frozen=True, slots=True)
class Upstream:
    name: str
    settings: UpstreamSettings
    provider: Provider
    caller: Caller


def build_upstreams(settings: Mapping[str, UpstreamSettings], world: World) -> dict[str, Upstream]:
    """One `Upstream` per configured name. No I/O: connections are made by the first call."""
    upstreams = {}
    for name, upstream in settings.items():
        provider: Provider = provider_class(upstream.provider)(upstream, world)
        caller = Caller(name, upstream, provider.sign_in(), provider.default_concurrency, world)
        upstreams[name] = Upstream(name, upstream, provider, caller)
    return upstreams
