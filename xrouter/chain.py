"""The configured list of filters, built into the application that a request goes through.

Two chains come from one list. `inference` has every filter and ends in dispatch; `query` has those that cover all endpoints
(they say who is calling, and how often) and ends in the answers that need no upstream. A chain is immutable and is swapped
whole: a request takes the current one once and keeps it to its end.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from xrouter.config.settings import FilterEntry
from xrouter.dispatch import Dispatch
from xrouter.filters.base import ASGIApp, Receive, Scope, Send, Services
from xrouter.queries import Queries
from xrouter.world import World


@dataclass(frozen=True, slots=True)
class Chain:
    inference: ASGIApp
    query: ASGIApp
    filters: tuple[Any, ...]  # every filter object, outermost first, and dispatch: to be started and closed

    async def start(self) -> None:
        """Start the filters that have something to start. If one fails, those before it are closed again."""
        started: list[Any] = []
        try:
            for step in self.filters:
                if hasattr(step, "start"):
                    await step.start()
                started.append(step)
        except BaseException:
            await _close(started)
            raise

    async def aclose(self) -> None:
        await _close(self.filters)


def build_chain(entries: Sequence[FilterEntry], services: Services) -> Chain:
    """Build both chains, innermost first. Their order was checked when the configuration was loaded."""
    dispatch = Dispatch(services)
    inference, filters = filters_around(_noted(dispatch, "dispatch", services.world), entries, services)
    covering = [entry for entry in entries if getattr(entry.filter, "covers", "") == "all"]
    query, others = filters_around(Queries(services), covering, services)
    return Chain(inference, query, (*others, *filters, dispatch))


def filters_around(app: ASGIApp, entries: Sequence[FilterEntry], services: Services) -> tuple[ASGIApp, tuple[Any, ...]]:
    """The filters of `entries` with `app` innermost, and the filter objects, outermost first."""
    built: list[Any] = []
    for entry in reversed(entries):
        app = entry.filter(app, entry.config, services)
        built.insert(0, app)
        app = _noted(app, entry.name, services.world)
    return app, tuple(built)


def _noted(app: ASGIApp, name: str, world: World) -> ASGIApp:
    """`app`, with the moment at which each request comes to it: the times of a receipt's path through the chain.

    It hands the coroutine on instead of awaiting it, so that a step costs no frame of its own.
    """
    now = world.monotonic

    def enter(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["xrouter"].steps.append((name, now()))
        return app(scope, receive, send)

    return enter


async def _close(steps: Sequence[Any]) -> None:
    for step in reversed(steps):
        if hasattr(step, "aclose"):
            await step.aclose()
