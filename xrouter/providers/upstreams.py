"""The configured upstreams, running: a provider's protocol and the credentials that its calls go out with."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from xrouter.config.settings import UpstreamSettings
from xrouter.providers.base import Provider
from xrouter.registry import provider_class
from xrouter.retries import RetryBudget
from xrouter.upstream.caller import Caller
from xrouter.upstream.credentials import Credentials
from xrouter.world import World

Files = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Upstream:
    name: str
    settings: UpstreamSettings
    provider: Provider
    credentials: Credentials
    retry_budget: RetryBudget
    shadow_results: Counter[str] = field(default_factory=Counter)  # how copies of calls have ended, by result


@dataclass(slots=True)
class _Kept:
    upstream: Upstream
    files: Files
    users: int = 0  # configurations


class UpstreamStock:
    """One process's upstreams, over all configurations that it serves by.

    One whose settings, and the files that they name, are as they were is taken over by the next configuration: its
    connections, tokens, gates and rests go on. The last configuration that uses it closes it.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._kept: list[_Kept] = []

    def take(self, settings: Mapping[str, UpstreamSettings]) -> dict[str, Upstream]:
        """One `Upstream` per configured name, to be given to `give_back` once. Nothing is taken if that raises."""
        taken = [self._find(name, wanted) for name, wanted in settings.items()]
        for kept in taken:
            kept.users += 1
            if kept not in self._kept:
                self._kept.append(kept)
        return {kept.upstream.name: _for_another(kept.upstream) for kept in taken}

    async def give_back(self, upstreams: Mapping[str, Upstream]) -> None:
        """What `take` has returned is used no more."""
        unused: list[_Kept] = []
        for kept in self._kept:
            own = upstreams.get(kept.upstream.name)
            if own is not None and own.credentials is kept.upstream.credentials:
                kept.users -= 1
                if kept.users == 0:
                    unused.append(kept)
        self._kept = [kept for kept in self._kept if kept.users > 0]  # before anything is awaited: nobody takes one
        for kept in unused:
            await kept.upstream.credentials.aclose()

    def _find(self, name: str, settings: UpstreamSettings) -> _Kept:
        files = tuple(_files(settings))
        for kept in self._kept:
            if kept.upstream.name == name and kept.upstream.settings == settings and kept.files == files:
                return kept
        return _Kept(_build(name, settings, self._world), files)


def build_upstreams(settings: Mapping[str, UpstreamSettings], world: World) -> dict[str, Upstream]:
    """One `Upstream` per configured name. No I/O: connections are made by the first call."""
    return {name: _build(name, upstream, world) for name, upstream in settings.items()}


def _for_another(upstream: Upstream) -> Upstream:
    """The same for another configuration, whose filters may set the budget's rules before it serves."""
    return replace(upstream, retry_budget=upstream.retry_budget.for_another())


def _files(settings: Any) -> Iterator[tuple[str, int, int]]:
    """What tells whether a key or certificate that the settings name has been replaced: path, inode, time of change (ns).

    One that is not there is left to who reads it.
    """
    for one in fields(settings):
        value = getattr(settings, one.name)
        if is_dataclass(value):
            yield from _files(value)
        elif one.name.endswith("_file") and value is not None:
            path = Path(str(value))
            if path.exists():
                stat = path.stat()
                yield str(path), stat.st_ino, stat.st_mtime_ns


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
