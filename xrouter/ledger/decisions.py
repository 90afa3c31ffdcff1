"""What each filter did about a request, told to people in a few words and from the facts that it left.

The times are how long a request took to pass from one filter to the next. What a filter does on the way back, settlement
above all, is not in them.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import msgspec

from xrouter.context import RequestContext
from xrouter.store.amounts import format_credits


class Decision(msgspec.Struct, frozen=True):
    """`decision` is for people; `duration_s` is None for the last step, which has no next one."""

    filter: str
    decision: str
    duration_s: float | None = None


def decisions(ctx: RequestContext, held_nano: int | None = None) -> tuple[Decision, ...]:
    """One per filter that the request came to, outermost first, `dispatch` last. `held_nano`: what was set aside for it."""
    steps = ctx.steps
    made = [
        Decision(name, _told(name, ctx, held_nano), in_micros(after - at)) for (name, at), (_, after) in pairwise(steps)
    ]
    if steps:
        made.append(Decision(steps[-1][0], _told(steps[-1][0], ctx, held_nano)))
    return tuple(made)


def in_micros(seconds: float) -> float:
    """Whole microseconds of a time that is not negative, in seconds. (`round` takes three times as long.)"""
    return int(seconds * 1e6 + 0.5) / 1e6


def _told(name: str, ctx: RequestContext, held_nano: int | None) -> str:
    if name == "quota":
        return "passed" if held_nano is None else f"up to {format_credits(held_nano)} credits are held"
    fact, told = _TOLD.get(name, _UNTOLD)
    return told(ctx) if fact in ctx else "passed"


def _key(ctx: RequestContext) -> str:
    principal = ctx.principal
    return f"key {principal.name or principal.key_id[:8]}, tier {principal.tier or 'none'}"


def _limits(ctx: RequestContext) -> str:
    """The tightest limit as the client was told it."""
    left = limit = b""
    for name, value in ctx.response_headers:
        if name == b"x-ratelimit-remaining":
            left = value
        elif name == b"x-ratelimit-limit":
            limit = value
    return f"{left.decode()} of {limit.decode()} left" if left and limit else "no limit applies"


def _body(ctx: RequestContext) -> str:
    raw = ctx.call.raw
    return "passed" if raw is None else f"{len(raw)} bytes"


def _targets(ctx: RequestContext) -> str:
    targets = ctx.route.targets
    if len(targets) == 1:
        return f"1 target: {targets[0].upstream}"
    return f"{len(targets)} targets: {', '.join([target.upstream for target in targets[:8]])}"


def _tokens(ctx: RequestContext) -> str:
    return _several(ctx.estimate.input_tokens, "token")


def _end(ctx: RequestContext) -> str:
    outcome = ctx.outcome
    return f"{outcome.end} after {_several(len(outcome.attempts), 'attempt')}"


def _several(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


# Of each filter: the fact without which it has not decided, and how what it decided is told.
_TOLD: Final[dict[str, tuple[str, Callable[[RequestContext], str]]]] = {
    "auth": ("principal", _key),
    "rate_limit": ("principal", _limits),
    "body": ("call", _body),
    "routing": ("route", _targets),
    "token_count": ("estimate", _tokens),
    "dispatch": ("outcome", _end),
}
_UNTOLD: Final = ("", _end)  # of other filters: no such fact is ever there
