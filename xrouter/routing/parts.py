"""Routes that take part of the requests: canaries, which are tried first by some, and shadows, which get copies of some.

Which requests these are is drawn from the conversation where there is one, so that each of its turns goes the same way.
"""

from collections.abc import Sequence
from typing import Final

from xrouter.context import Target
from xrouter.routing.chance import Draw
from xrouter.routing.fitting import Check, Reason, reason_against
from xrouter.routing.options import ModelOptions, Option

_SHADOW: Final = 0x5851F42D4C957F2D  # makes a shadow's draw another than the one by which its place is ranked


def chosen_canaries(models: Sequence[ModelOptions], draw: Draw) -> frozenset[Option]:
    """Of each model the canary that this request tries first, if it is one of its percent."""
    return frozenset(option for model in models if (option := _chosen(model, draw)) is not None)


def canaries_last(options: list[Option], chosen: frozenset[Option]) -> list[Option]:
    """The chosen canaries first, the other canaries last."""
    return sorted(options, key=lambda option: 0 if option in chosen else 2 if option.canary else 1)


def copies(model: ModelOptions, draw: Draw, demands: Sequence[tuple[Reason, Check]]) -> tuple[Target, ...]:
    """The shadows that get a copy of this request: what it forbids an upstream that answers, it forbids these too."""
    return tuple(
        option.target
        for option in model.shadows
        if draw(option.seed ^ _SHADOW) * 100 <= option.shadow and reason_against(option, demands) is None
    )


def _chosen(model: ModelOptions, draw: Draw) -> Option | None:
    point, percent = draw(model.seed) * 100, 0.0
    for option in model.answering:
        percent += option.canary
        if option.canary and point <= percent:
            return option
    return None
