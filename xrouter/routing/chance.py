"""Numbers that choose: drawn by a conversation's name, so that it stays where it is, or by chance.

By name it is rendezvous hashing (Thaler and Ravishankar 1998): each place draws its own number from the conversation and the
place, and the places are ordered by their numbers. Every process draws the same without knowing of the others, and a place
that comes or goes moves only the conversations that it gains or loses.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import log
from typing import Final, Protocol, TypeVar

from xrouter.context import RequestContext
from xrouter.world import World

_LONGEST_NAME: Final = 256  # characters of a conversation's name that are read, as of the header x-session-id
_64: Final = 2**64 - 1
_UNIT: Final = 2.0**-64
_MULTIPLIER: Final = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio (Knuth, volume 3, section 6.4)

Draw = Callable[[int], float]
"""A number in (0, 1] for what has this seed. The same conversation draws the same number for the same seed."""


class Weighted(Protocol):
    @property
    def weight(self) -> int: ...
    @property
    def seed(self) -> int: ...


W = TypeVar("W", bound=Weighted)


def seed_of(*names: str) -> int:
    """64 bits, the same in every process; `hash` is another in each."""
    return int.from_bytes(blake2b("\0".join(names).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def session_of(ctx: RequestContext) -> str | None:
    """The conversation's name, if the client gives it one: the most particular of the fields that may name it.

    Two keys' conversations are two, whatever they are called.
    """
    request = ctx.call.request
    name = ctx.session_id or request.session_id or request.prompt_cache_key or request.user
    return f"{ctx.principal.key_id}:{name[:_LONGEST_NAME]}" if name else None


def by_session(session: str) -> Draw:
    name = seed_of(session)

    def draw(seed: int) -> float:
        # Both are hashes already. The product's upper bits depend on all bits of both, so that the numbers which one name
        # draws for two seeds have nothing to do with each other (tests/routing/test_chance.py).
        return (((name ^ seed) * _MULTIPLIER & _64) + 1) * _UNIT

    return draw


def by_chance(world: World) -> Draw:
    return lambda seed: 1.0 - world.random()


def picked(runners: Sequence[W], draw: Draw) -> W:
    """One, with a chance in proportion to its weight; of weightless ones the first."""
    point = draw(0) * sum([runner.weight for runner in runners])
    for runner in runners:
        point -= runner.weight
        if point <= 0:
            return runner
    return runners[-1]  # what the rounding of a sum of many has left over


def race(runners: Sequence[W], draw: Draw) -> list[W]:
    """In an order in which each comes first with a chance in proportion to its weight, and so on among the rest.

    Each runner's time is exponential with its weight as the rate (Efraimidis and Spirakis 2006). Weightless ones come last,
    in the order given.
    """
    if len(runners) < 2:
        return list(runners)
    running = [
        (-log(draw(runner.seed)) / runner.weight, place) for place, runner in enumerate(runners) if runner.weight
    ]
    running.sort()
    return [runners[place] for _, place in running] + [runner for runner in runners if not runner.weight]
