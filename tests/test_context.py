"""The facts of a request."""

import pytest

from xrouter.context import ContractError, Endpoint, Estimate, RequestContext

ENDPOINT = Endpoint("chat", "POST", inference=True)


def made() -> RequestContext:
    return RequestContext("r", "g", ENDPOINT, 0.0, 0.0)


def test_a_fact_is_written_once_and_read_only_then() -> None:
    ctx, estimate = made(), Estimate(1, None, len)
    with pytest.raises(ContractError, match="no filter has provided `estimate`"):
        _ = ctx.estimate
    ctx.estimate = estimate
    assert ctx.estimate is estimate
    with pytest.raises(ContractError, match="`estimate` is already provided"):
        ctx.estimate = estimate


def test_a_request_is_itself_and_nothing_else() -> None:
    """Fails where it compares as the dict that it is: empty ones are then equal, and false."""
    one, other = made(), made()
    assert one
    assert one != other
    assert not one == other  # noqa: SIM201  both operators are a dict's own otherwise
    assert len({one, other}) == 2
