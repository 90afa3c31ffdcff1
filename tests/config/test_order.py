"""The order of filters, walked once."""

import pytest

from xrouter.config.order import Step, order_problems
from xrouter.config.problems import Place

END = Place("x.yaml", 1, 1)


def step(line: int, name: str, needs: str = "", provides: str = "") -> Step:
    return Step(name, frozenset(needs.split()), frozenset(provides.split()), Place("x.yaml", line, 5))


AUTH = step(2, "auth", "", "principal")
BODY = step(3, "body", "principal", "call")
ROUTING = step(4, "routing", "call", "route")
COUNT = step(5, "token_count", "call", "estimate")
QUOTA = step(6, "quota", "principal route estimate", "quote")


@pytest.mark.parametrize(
    ("steps", "problems"),
    [
        ([AUTH, BODY, ROUTING, COUNT, QUOTA], []),
        ([AUTH, BODY, ROUTING, QUOTA, COUNT], ["6:5: quota needs `estimate`; no filter above it provides that"]),
        ([AUTH, BODY, ROUTING, QUOTA], ["6:5: quota needs `estimate`; no filter above it provides that"]),
        (
            [BODY, AUTH, QUOTA, ROUTING, COUNT],
            [
                "3:5: body needs `principal`; no filter above it provides that",
                "6:5: quota needs `estimate`; no filter above it provides that",
                "6:5: quota needs `route`; no filter above it provides that",
            ],
        ),
        ([AUTH, AUTH, BODY, ROUTING], ["2:5: auth provides `principal`, as auth above it already does"]),
        (
            [],
            [
                "1:1: dispatch needs `call`; no filter provides that",
                "1:1: dispatch needs `route`; no filter provides that",
            ],
        ),
        ([AUTH, BODY], ["1:1: dispatch needs `route`; no filter provides that"]),
        ([step(2, "both", "a", "a call route")], ["2:5: both needs `a`; no filter above it provides that"]),
    ],
)
def test_order(steps, problems):
    assert [f"{place.line}:{place.column}: {message}" for place, message in order_problems(steps, END)] == problems
