"""Active probes: asking an upstream for its list of models, which costs nothing, now and then.

They find out that an idle upstream is dead before a client does, and that one is reachable again without risking a client's
request. What a list of models cannot tell (the model itself fails, slows, is at its limit) is left to the requests: only
what was lost with the connection or the credentials is given back on a probe's word.

Upstreams with traffic are not probed while it goes well. With Redis one process of the gateway probes for all.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from xrouter.config.settings import Probe
from xrouter.errors import XRouterError
from xrouter.providers.upstreams import Upstream
from xrouter.routing.health import Health, Place
from xrouter.world import World

log = logging.getLogger(__name__)

_GIVEN_BACK: Final = frozenset({"connect", "auth"})  # kinds of failure that a list of models shows to be over
_MOST_BYTES: Final = 4 * 1024 * 1024
_REFUSED: Final = frozenset({401, 402, 403})


class Prober:
    """The probes of one loaded configuration, from `start` to `aclose`: one task for each upstream that wants them."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        places: Iterable[Place],
        health: Health,
        world: World,
        leads: Callable[[], bool],
    ) -> None:
        """`leads`: whether this process is the one that probes."""
        self._upstreams = upstreams
        self._places: dict[str, list[Place]] = {}
        for place in sorted(places):
            self._places.setdefault(place[0], []).append(place)
        self._health = health
        self._world = world
        self._leads = leads
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for name, upstream in self._upstreams.items():
            probe = upstream.settings.probe
            if probe is not None and name in self._places:
                task = asyncio.create_task(self._watch(upstream, probe, self._places[name]), name=f"probes of {name}")
                self._tasks.append(task)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _watch(self, upstream: Upstream, probe: Probe, places: list[Place]) -> None:
        failures = 0
        while True:
            await self._world.sleep(probe.interval_s * (0.9 + 0.2 * self._world.random()))
            if not self._leads() or self._is_served(places, probe.interval_s):
                failures = 0
                continue
            kind = await self._ask(upstream, probe)
            counted = (upstream.name, "ok" if kind is None else "failed")
            self._health.probes[counted] = self._health.probes.get(counted, 0) + 1
            failures = 0 if kind is None else failures + 1
            if kind is None:
                self._give_back(places)
            elif failures >= probe.failures:
                self._take_out(places, kind, 2 * probe.interval_s + probe.timeout_s)

    def _is_served(self, places: list[Place], interval_s: float) -> bool:
        """Whether requests tell enough: none of the places is in trouble, and one was used a moment ago."""
        health = self._health
        return all(health.ejection(place) is None for place in places) and any(
            health.quiet_s(place) < interval_s for place in places
        )

    async def _ask(self, upstream: Upstream, probe: Probe) -> str | None:
        """One probe: None, or the kind of its failure. An upstream that answers that it has no such list is alive."""
        try:
            async with asyncio.timeout(probe.timeout_s):
                caller = upstream.credentials.choose("").caller
                answer = await caller.fetch(upstream.provider.list_models(), _MOST_BYTES)
        except TimeoutError:
            return "timeout"
        except XRouterError as error:
            log.info("a probe of %s has failed: %s", upstream.name, error.detail or error.message)
            return str(getattr(error, "kind", "status"))
        if answer.status in _REFUSED:
            return "auth"
        return "status" if answer.status >= 500 else None

    def _give_back(self, places: list[Place]) -> None:
        for place in places:
            ejection = self._health.ejection(place)
            if ejection is not None and (ejection.reason == "probe" or ejection.kind in _GIVEN_BACK):
                self._health.restore(place)

    def _take_out(self, places: list[Place], kind: str, open_s: float) -> None:
        """Until the next probe but one: each that fails prolongs it."""
        until = self._world.monotonic() + open_s
        for place in places:
            ejection = self._health.ejection(place)
            if ejection is None or ejection.until < until:
                self._health.eject(place, "probe", kind, open_s)
