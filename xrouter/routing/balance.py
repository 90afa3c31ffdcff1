"""In which order a model's routes are tried when the request does not say.

| balance    | first is                                                                                          |
|------------|---------------------------------------------------------------------------------------------------|
| order      | the first as written                                                                              |
| weighted   | each as often as its weight says                                                                  |
| least_busy | the one with the fewest calls under way here, for its weight                                      |
| latency    | of two by chance, the one whose first token comes sooner for the calls under way (EWMA, see below) |
| cheapest   | the one that costs the least                                                                      |

`latency` is the power of two choices (Mitzenmacher 2001) over a moving average times the calls under way, as Finagle's
"P2C + EWMA": choosing the best of all would send every request of all processes to one place at once. A route without weight
comes after those that have some, except for `order`. A conversation (`draw` by its session) stays where it is: of its rules
only weights are left, since how busy or fast a place is changes between two turns.
"""

from collections.abc import Callable, Sequence
from typing import Final

from xrouter.config.settings import Balance
from xrouter.routing.chance import Draw, picked, race
from xrouter.routing.health import Health
from xrouter.routing.options import Option

_UNKNOWN_BUSY: Final = float("inf")

Price = Callable[[Option], float]
"""A route's price as routes are compared by it: credits for a token of input and one of output."""


def ranked(
    options: Sequence[Option], balance: Balance, health: Health, draw: Draw, *, sticky: bool, price: Price
) -> list[Option]:
    """`sticky`: `draw` is a conversation's."""
    if len(options) < 2 or balance == "order":
        return list(options)
    if balance == "cheapest":
        return sorted(options, key=lambda option: (not option.weight, price(option)))
    if balance == "weighted" or sticky:
        return race(options, draw)
    if balance == "least_busy":
        return sorted(options, key=lambda option: (_load(option, health), draw(option.seed)))
    return _two_choices(options, health, draw)


def _load(option: Option, health: Health) -> float:
    return health.active(option.place) / option.weight if option.weight else _UNKNOWN_BUSY


def _two_choices(options: Sequence[Option], health: Health, draw: Draw) -> list[Option]:
    """The better of two that weight and chance choose, then the rest by how good they are."""
    waits_s = {option: _wait_s(option, health) if option.weight else _UNKNOWN_BUSY for option in options}
    one = picked(options, draw)
    other = picked([option for option in options if option is not one], draw)
    better = one if waits_s[one] <= waits_s[other] else other
    return sorted(options, key=lambda option: -1.0 if option is better else waits_s[option])


def _wait_s(option: Option, health: Health) -> float:
    """Expected wait for a first token.

    A place of which nothing is known is worth one call to learn it, and no more until that has ended.
    """
    latency_s, active = health.latency_s(option.place), health.active(option.place)
    if latency_s is None:
        return _UNKNOWN_BUSY if active else 0.0
    return latency_s * (active + 1)
