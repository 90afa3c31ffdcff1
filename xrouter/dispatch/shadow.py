"""Copies of calls to a second upstream: to learn how it would do, at no cost to anybody's client.

A copy never waits for a place and gives its own up to the first client that would; there are a bounded number of them. What
it says is thrown away; how it went is counted (`Upstream.shadow_results`) and logged. Health is not told: a route that is
tried out must not be judged, nor spared, by it.
"""

import asyncio
import logging
from typing import Final, Literal

from xrouter.context import RequestContext, Target
from xrouter.dispatch.conversation import conversation
from xrouter.dispatch.upstream_call import UpstreamCall
from xrouter.errors import XRouterError
from xrouter.filters.base import Services
from xrouter.providers.base import Purpose

MOST_SHADOWS: Final = 64  # of one process, under way at a time

_log = logging.getLogger(__name__)

Result = Literal["complete", "failed", "dropped", "cut_short"]
"""`dropped`: not begun, for lack of room. `cut_short`: gave way to a client, or to the end of the process."""


class Shadows:
    """The copies under way, owned by the configuration that began them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._world = services.world
        self._tasks: set[asyncio.Task[None]] = set()

    def copy(self, ctx: RequestContext) -> None:
        """Begin the copies that the route of a request asks for."""
        for target in ctx.route.shadows:
            if len(self._tasks) >= MOST_SHADOWS:
                self._count(target, "dropped")
                continue
            task = asyncio.create_task(self._run(ctx, target), name="shadow copy")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Stop all copies."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, ctx: RequestContext, target: Target) -> None:
        """One copy to its end. Never raises."""
        began = self._world.monotonic()
        first_token_s: float | None = None
        output_tokens: int | None = None
        error: str | None = None
        result: Result = "cut_short"
        try:
            upstream = self._services.upstreams[target.upstream]
            name = conversation(ctx)
            credential = upstream.credentials.choose(target.model, name)
            model = self._services.catalog.entries()[target.public_model].settings
            purpose = Purpose(ctx.generation_id, ctx.request_id, name, model, credential.index)
            call = UpstreamCall(ctx, target, upstream, credential, purpose, "shadow", began, self._world, spare=True)
            task = asyncio.current_task()
            assert task is not None
            give_up = task.cancel
            if not credential.caller.gate.take_spare(give_up):
                result = "dropped"
                return
            try:
                while await call.events():
                    if first_token_s is None:
                        first_token_s = self._world.monotonic() - began
                await call.end()
                result = "complete"
                output_tokens = call.translator.usage.output_tokens if call.translator.usage is not None else None
            finally:
                await call.aclose()
                credential.caller.gate.release_spare(give_up)
        except XRouterError as failure:
            result, error = "failed", failure.type
        except asyncio.CancelledError:
            return  # what cancels is the gate or `aclose`; both have counted on this being the end
        except Exception:
            result, error = "failed", "internal_error"
            _log.exception("shadow of %s at %s failed", ctx.request_id, target.upstream)
        finally:
            self._count(target, result)
            _log.info(
                "shadow of %s at %s, model %s: %s%s, first token after %s s, %s output tokens, %.3f s",
                ctx.request_id, target.upstream, target.model, result, f" ({error})" if error else "",
                "?" if first_token_s is None else f"{first_token_s:.3f}",
                "?" if output_tokens is None else output_tokens, self._world.monotonic() - began,
            )  # fmt: skip

    def _count(self, target: Target, result: Result) -> None:
        self._services.upstreams[target.upstream].shadow_results[result] += 1
