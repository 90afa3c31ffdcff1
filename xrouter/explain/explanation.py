"""An explanation as it is told: typed, for JSON, and as text for a terminal. Credits are decimal strings."""

from collections.abc import Iterator
from typing import Any

import msgspec


class Step(msgspec.Struct, frozen=True):
    filter: str
    decision: str


class LimitStanding(msgspec.Struct, frozen=True):
    """One limit that the request meets. `wanted`: what it would take; 0 where it is only looked whether any is left.

    `retry_s`: when it would fit, None if it does, or if it never can. Amounts are in the limit's own unit.
    """

    name: str
    per: str
    kind: str
    limit: int | str
    left: int | str
    wanted: int | str
    fits: bool
    reset_s: int
    retry_s: int | None
    shadow: bool


class HoldSize(msgspec.Struct, frozen=True):
    """Credits set aside for the request. `payable`: the most that the hold could grow to; `output_cap`: what that bounds."""

    wanted: str
    granted: str
    payable: str
    output_cap: int | None


class Candidate(msgspec.Struct, frozen=True):
    """`left_alone`: ejected now for its failures, so it comes after those that are well."""

    upstream: str
    model: str
    public_model: str
    left_alone: bool = False


class LeftOut(msgspec.Struct, frozen=True):
    upstream: str
    model: str
    public_model: str
    reason: str


class Refusal(msgspec.Struct, frozen=True):
    """`by`: the filter that refuses. `error`: the body that the client would get."""

    by: str
    status: int
    error: dict[str, Any]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """`refused` is None for a request that would be sent to the first of `candidates`.

    `passed_over`: why models that were asked for have no candidates, in the words of the error that each alone would be.
    """

    endpoint: str
    refused: Refusal | None
    chain: list[Step]
    limits: list[LimitStanding]
    input_tokens: int | None
    output_cap: int | None
    hold: HoldSize | None
    candidates: list[Candidate]
    left_out: list[LeftOut]
    passed_over: list[str]
    shadows: list[Candidate]


def as_text(told: Explanation) -> str:
    return "\n".join(_lines(told))


def _lines(told: Explanation) -> Iterator[str]:
    if told.refused is not None:
        yield f"{told.endpoint}: refused by {told.refused.by} with {told.refused.status}"
        yield f"  {told.refused.error['message']}"
    else:
        first = told.candidates[0] if told.candidates else None
        yield f"{told.endpoint}: goes to {_place(first)}" if first else f"{told.endpoint}: reaches the end of the chain"
    yield ""
    width = max((len(step.filter) for step in told.chain), default=0)
    yield from (f"  {step.filter:{width}}  {step.decision}" for step in told.chain)
    if told.limits:
        yield ""
        yield "limits"
        yield from (f"  {_standing(limit)}" for limit in told.limits)
    if told.hold is not None:
        hold = told.hold
        bound = "" if hold.output_cap is None else f"; the answer is bounded to {hold.output_cap} tokens"
        yield ""
        yield f"hold: {hold.granted} credits of {hold.wanted} wanted, {hold.payable} payable{bound}"
    if told.candidates or told.left_out:
        yield ""
        yield "candidates"
        for place, candidate in enumerate(told.candidates, 1):
            yield f"  {place}. {_place(candidate)}" + (", left alone for its failures" if candidate.left_alone else "")
        yield from (f"  -  {_place(out)}, left out by {out.reason}" for out in told.left_out)
        yield from (f"  -  {reason}" for reason in told.passed_over)
        yield from (f"  copy to {_place(shadow)}" for shadow in told.shadows)


def _place(candidate: Candidate | LeftOut) -> str:
    return f"{candidate.upstream}: {candidate.model} ({candidate.public_model})"


def _standing(limit: LimitStanding) -> str:
    shadow = " (shadow)" if limit.shadow else ""
    told = (
        f"{limit.name}{shadow}: {limit.left} of {limit.limit} {limit.kind} left per {limit.per}, takes {limit.wanted}"
    )
    if limit.fits:
        return told
    return told + (", never fits" if limit.retry_s is None else f", fits in {limit.retry_s} s")
