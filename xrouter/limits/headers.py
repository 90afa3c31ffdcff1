"""How clients are told of their limits: response headers, and the error that names the limit."""

from collections.abc import Sequence
from typing import Final

from xrouter.errors import RateLimited
from xrouter.limits.limit import MICRO, TOKEN_KINDS, Claim, Limit, Standing, State

Header = tuple[bytes, bytes]

_PREFIX: Final = b"x-ratelimit-"
_NAMES: Final = tuple(
    (_PREFIX + b"limit" + suffix, _PREFIX + b"remaining" + suffix, _PREFIX + b"reset" + suffix)
    for suffix in (b"", b"-requests", b"-tokens")
)
_SHADOW: Final = b"x-xrouter-shadow-limit"
_NO_RETRY: Final = (b"x-should-retry", b"false")  # heeded by OpenAI's clients


def seconds(microseconds: int) -> int:
    """Rounded up: who waits so long comes neither too early nor a second too late."""
    return -(-microseconds // MICRO)


def add_headers(
    headers: list[Header], standings: Sequence[Standing], refused: Standing | None = None
) -> list[str] | None:
    """Add the limits' headers to those of the response. Returns the names of shadow limits that would have refused it.

    Of each kind the limit nearest to exhaustion is told. The headers without a suffix tell of the one that refused, else of
    requests, else of tokens, so that they mean the same from one answer to the next.
    """
    requests: Standing | None = None
    tokens: Standing | None = None
    shadows: list[str] | None = None
    for standing in standings:
        limit = standing[0].limit
        if limit.shadow:
            if not standing[1].fits:
                shadows = [*(shadows or ()), limit.name]
        elif limit.kind == "requests":
            if requests is None or _left(standing) < _left(requests):  # the earlier of two that are alike
                requests = standing
        elif limit.kind in TOKEN_KINDS and (tokens is None or _left(standing) < _left(tokens)):
            tokens = standing
    first = refused or requests or tokens
    known: Standing | None = None
    values: tuple[bytes, bytes, bytes] = (b"", b"", b"")
    for names, told in zip(_NAMES, (first, requests, tokens), strict=True):
        if told is None:
            continue
        if told is not known:  # the first is mostly one of the other two
            known, values = told, _values(told[0].limit, told[1])
        headers += zip(names, values, strict=True)
    if refused is not None and refused[1].retry_us < 0:  # however long they wait
        headers.append(_NO_RETRY)
    if shadows:
        headers.append((_SHADOW, ", ".join(shadows).encode()))
    return shadows


def _left(standing: Standing) -> float:
    """The share of a limit that is free."""
    return standing[1].remaining / standing[0].limit.most


def _values(limit: Limit, state: State) -> tuple[bytes, bytes, bytes]:
    return limit.told_amount, b"%d" % (state.remaining // limit.unit), b"%d" % _reset_s(state)


def _reset_s(state: State) -> int:
    return seconds(state.reset_us if state.reset_us >= state.retry_us else state.retry_us)


def worst_refusal(standings: Sequence[Standing]) -> Standing:
    """Of the limits that refuse, the one that has to be waited for longest; one that can never fit before all others."""
    refusing = [standing for standing in standings if not standing[1].fits and not standing[0].limit.shadow]
    return max(refusing, key=lambda standing: (standing[1].retry_us < 0, standing[1].retry_us))


def refusal(claim: Claim, state: State) -> RateLimited:
    """The error of a claim that did not fit."""
    limit, unit = claim.limit, claim.limit.unit
    allowed = f"{limit.amount // unit} {limit.kind.replace('_', ' ')}"
    if limit.kind == "concurrency":
        message = f"The limit {limit.name} is reached: {limit.amount} requests at a time"
    elif state.retry_us < 0:
        message = (
            f"The request needs {-(-claim.amount // unit)} {limit.kind.replace('_', ' ')} at once, "
            f"more than the limit {limit.name} ever allows: {limit.most // unit}"
        )
    else:
        message = f"The limit {limit.name} is reached: {allowed} in {_duration(limit.window_s)}"
    retry_s = seconds(state.retry_us) if state.retry_us >= 0 else limit.window_s
    return RateLimited(
        message,
        retry_after_s=retry_s,
        metadata={
            "limit": limit.name,
            "allowed": limit.amount // unit,
            "remaining": state.remaining // unit,
            "reset_s": _reset_s(state),
        },
    )


def _duration(window_s: int) -> str:
    for unit, size_s in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if window_s % size_s == 0:
            return f"{window_s // size_s} {unit}{'s' if window_s > size_s else ''}"
    return f"{window_s} second{'s' if window_s > 1 else ''}"
