"""What each filter did about a request, told to people in a few words and from the facts that it left.

The times are how long a request took to pass from one filter to the next. What a filter does on the way back, settlement
above all, is not in them.
"""

from itertools import pairwise

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
        Decision(name, _told(name, ctx, held_nano), round(after - at, 6)) for (name, at), (_, after) in pairwise(steps)
    ]
    if steps:
        made.append(Decision(steps[-1][0], _told(steps[-1][0], ctx, held_nano)))
    return tuple(made)


def _told(name: str, ctx: RequestContext, held_nano: int | None) -> str:
    match name:
        case "auth" if ctx.provided("principal"):
            return f"key {ctx.principal.name or ctx.principal.key_id[:8]}, tier {ctx.principal.tier or 'none'}"
        case "rate_limit":
            return _limits(ctx)
        case "body" if ctx.provided("call") and ctx.call.raw is not None:
            return f"{len(ctx.call.raw)} bytes"
        case "routing" if ctx.provided("route"):
            targets = [target.upstream for target in ctx.route.targets]
            return f"{_several(len(targets), 'target')}: {', '.join(targets[:8])}"
        case "token_count" if ctx.provided("estimate"):
            return _several(ctx.estimate.input_tokens, "token")
        case "quota" if held_nano is not None:
            return f"up to {format_credits(held_nano)} credits are held"
        case "dispatch" if ctx.provided("outcome"):
            return f"{ctx.outcome.end} after {_several(len(ctx.outcome.attempts), 'attempt')}"
        case _:
            return "passed"


def _several(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _limits(ctx: RequestContext) -> str:
    """The tightest limit as the client was told it."""
    told = dict(ctx.response_headers)
    left, limit = told.get(b"x-ratelimit-remaining"), told.get(b"x-ratelimit-limit")
    return f"{left.decode()} of {limit.decode()} left" if left and limit else "no limit applies"
