"""What is explored: a few requests and a few faults at a time, so that each can be searched to its end.

`BOUNDED` is searched by the tests, `LARGE` by `python tests/model/long_run.py`. The first request's hold is its price; the
second's may grow, and its whole answer costs more than it first held.
"""

from typing import Final, NamedTuple

from model.books import Generation
from model.state import Faults

EXACT: Final = Generation(0, wanted=2, least=2, cost=2, partial=1, leaves=False, fails=False)
GROWING: Final = Generation(1, wanted=2, least=1, cost=3, partial=1, more=1, fails=False)
WHOLE: Final = Generation(
    0, wanted=2, least=2, cost=3, partial=1, streamed=False, allow=True, leaves=False, fails=False
)
ANY: Final = Generation(0, wanted=2, least=2, cost=2, partial=1)


class Configuration(NamedTuple):
    generations: tuple[Generation, ...]
    faults: Faults
    balance: int


BOUNDED: Final = {
    "no faults": Configuration((ANY, GROWING._replace(fails=True)), Faults(), 4),
    "commits that fail or lose their answer": Configuration((GROWING,), Faults(fail=1, lost=1, disk=1), 4),
    "two requests, of which one loses an answer": Configuration(
        (ANY, GROWING._replace(leaves=False)), Faults(lost=1), 4
    ),
    "a kill, two requests": Configuration((EXACT, GROWING._replace(leaves=False)), Faults(crash=1), 4),
    "a kill in an outage": Configuration((EXACT,), Faults(outage=1, crash=1, disk=1), 4),
    "an outage, two journaled": Configuration((EXACT, WHOLE), Faults(outage=1), 5),
    "an outage longer than a lease": Configuration((EXACT, EXACT._replace(home=1)), Faults(outage=1), 4),
    "stopped for an hour": Configuration((EXACT, GROWING._replace(leaves=False)), Faults(pause=1), 4),
    "stopped, and the clock is set": Configuration((EXACT,), Faults(pause=1, jump=1), 4),
    "a kill, and the clock is set": Configuration((EXACT,), Faults(crash=1, jump=1), 4),
    "a grant and refunds": Configuration((EXACT,), Faults(lost=1, grant=2, refund=2), 4),
}
LARGE: Final = {
    "a kill and a lost answer": Configuration((EXACT, GROWING), Faults(crash=1, lost=1), 4),
    "two kills, an outage, one request": Configuration((WHOLE,), Faults(crash=2, outage=1, disk=1), 4),
    "an outage and a kill, two journaled": Configuration((EXACT, WHOLE), Faults(outage=1, crash=1), 5),
    "three requests and a kill": Configuration((EXACT, GROWING, EXACT._replace(home=1)), Faults(crash=1), 6),
    "every fault, one request": Configuration((ANY,), Faults(1, 1, 1, 1, 1, 1, 1), 4),
}
