"""Which request begins next when more come than the event loop gets through, and which are answered 503 instead.

A request begins at once while few do in one turn of the loop. What is more waits, first come first served for each key, and
the keys take turns, so that one which floods the gateway waits behind itself only (fair queuing, RFC 970). Only a few begin
in each turn, and fewer the more time the loop's other work takes: what is under way is brought to its end before more is
begun, and so turns stay short however many ask. Requests that wait for an upstream or for their client take no time of the
loop and hold nobody up here.

On arrival it is worked out how long a request would wait, from its place in the queue and the pace at which requests have
begun lately. If that is more than half of `queue_s` it is shed, before anything of it is looked at but its head. The pace
may change: one that is found to have waited for all of `queue_s` when its turn comes is shed too, as in CoDel (RFC 8289),
since its client may have given up. Either takes the same few steps however long the queue is.

While the queue is too long, whoever would be shed is, before anything is made of its request (`glance.py`): that is asked
with `too_long` and `too_long_for`.

Some clients ask again at once, and however many do, they are to cost only a part of each turn. So where more are shed in a
turn than twelve for each request that may begin, the others are not read from until the loop has time for them, in their
order. The number does not follow the pace: then a loop that is slow since it turns many away would turn fewer away.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, Literal, NamedTuple, Protocol

from xrouter.front.exchange import Exchange

Reason = Literal["wait", "expired"]
"""Why a request is shed: the queue is too long for it, or it has waited for too long."""

STARTS_A_TURN: Final = 8  # the most that begin in one turn of the loop; of 16, each costs more: too many are under way,
TURN_S: Final = 0.02  # and fewer where turns would take longer
_CLIENTS_A_TURN: Final = 12 * STARTS_A_TURN
_CONNECTIONS_A_TURN: Final = _CLIENTS_A_TURN // 3  # one costs as much as turning three away
_SMOOTHING: Final = 0.1  # share of the newest turn in the pace
_DATA_PLANE: Final = ("/v1/", "/api/v1/")


class Bearer(Protocol):
    """Who brings a request: the connection."""

    def start(self, exchange: Exchange) -> None:
        """Run the app."""

    def shed(self, exchange: Exchange, reason: Reason) -> None:
        """Answer that there are too many."""

    def stop_hearing(self) -> None:
        """Read nothing more for now."""

    def hear_again(self) -> None:
        """Read on."""


class _Waiting(NamedTuple):
    since: float  # on the queue's clock
    bearer: Bearer
    exchange: Exchange


class StartQueue:
    """See the module."""

    __slots__ = (
        "_clock",
        "_longest_s",
        "_most",
        "_number",
        "_queues",
        "_shed_now",
        "_start_s",
        "_started",
        "_turn_at",
        "_turning",
        "_turns",
        "_unheard",
    )

    def __init__(self, longest_s: float, clock: Callable[[], float]) -> None:
        """`longest_s`: the longest wait. `clock`: seconds that only go forward."""
        self._longest_s = longest_s
        self._clock = clock
        self._started = 0  # requests, in this turn of the loop
        self._most = STARTS_A_TURN  # that may be
        self._queues: dict[Hashable, deque[_Waiting]] = {}  # of the keys that have requests waiting
        self._turns: deque[Hashable] = deque()  # the same keys in the order of their turns
        self._number = 0  # of all that wait
        self._shed_now = 0  # requests, in this turn of the loop, whose clients are still listened to
        self._unheard: deque[Bearer] = deque()  # who was told that there are too many, and may not ask again yet
        self._turning = False  # the loop will call `_turn`
        self._start_s = 0.0  # the pace: seconds from one start to the next while requests wait
        self._turn_at = 0.0  # when requests were last begun from the queue

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return self._number

    @property
    def clients_a_turn(self) -> int:
        """The most that are listened to again in a turn: to turn them away must leave time for the others."""
        return _CLIENTS_A_TURN

    @property
    def connections_a_turn(self) -> int:
        """The most that are accepted in a turn, for the same reason."""
        return _CONNECTIONS_A_TURN

    @property
    def too_long(self) -> bool:
        """Whether a request of somebody's may have to be shed on arrival."""
        return self._number > 0 and (self._number + 1) * self._start_s > self._longest_s / 2

    def too_long_for(self, key: Hashable) -> bool:
        """Whether a request of this sender's would wait too long."""
        queue = self._queues.get(key)
        before = 0 if queue is None else len(queue)
        keys = len(self._queues) + (queue is None)
        return min((before + 1) * keys, self._number + 1) * self._start_s > self._longest_s / 2

    def arrive(self, bearer: Bearer, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        """Begin a request whose head has come, now or in its turn; or shed it."""
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn, loop)
        if (self._started < self._most and not self._number) or not exchange.path.startswith(_DATA_PLANE):
            self._started += 1
            bearer.start(exchange)
            return
        key = exchange.sender()
        if self.too_long_for(key):
            bearer.shed(exchange, "wait")
            self.shed_one(bearer)
            return
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
            self._turns.append(key)
        now = self._clock()
        if not self._number:
            self._turn_at = now
            self._start_s = 0.0  # the pace of another time says nothing
        self._number += 1
        queue.append(_Waiting(now, bearer, exchange))

    def shed_one(self, bearer: Bearer) -> None:
        """One of its requests has been answered that there are too many."""
        if self._shed_now < self.clients_a_turn and not self._unheard:
            self._shed_now += 1
        else:
            bearer.stop_hearing()
            self._unheard.append(bearer)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop goes round: begin the next ones."""
        begun, self._started = self._started, 0
        self._shed_now = 0
        try:
            if self._number:
                self._begin(begun)
            for _ in range(min(self.clients_a_turn, len(self._unheard))):
                self._unheard.popleft().hear_again()
        finally:  # one request that fails keeps nobody else waiting for ever
            self._turning = bool(self._started or self._number or self._unheard)
            if self._turning:
                loop.call_soon(self._turn, loop)

    def _begin(self, begun: int) -> None:
        """Begin as many as may be in this turn, where `begun` were in the last one."""
        now = self._clock()
        took_s, self._turn_at = now - self._turn_at, now
        self._start_s += _SMOOTHING * (took_s / max(1, begun) - self._start_s)
        self._most = max(1, min(STARTS_A_TURN, int(TURN_S / self._start_s)))
        while self._number and self._started < self._most:
            self._begin_next(now)
        if not self._number:
            self._most = STARTS_A_TURN

    def _begin_next(self, now: float) -> None:
        """Begin or shed the next one of the key whose turn it is."""
        key = self._turns.popleft()
        queue = self._queues[key]
        since, bearer, exchange = queue.popleft()
        self._number -= 1
        if queue:
            self._turns.append(key)
        else:
            del self._queues[key]
        if exchange.dropped:
            return
        if now - since > self._longest_s:
            bearer.shed(exchange, "expired")
            self.shed_one(bearer)
        else:
            self._started += 1
            bearer.start(exchange)
