"""Limits counted in Redis: exact for all workers and replicas that share it.

One admission is one call of `limits.lua`, which no other call can come between. In a cluster a call reaches one node only:
there the limits of one account, which share a hash tag, are one call; those of an address, a model, a tier or an upstream
are further calls, one after another, and if one refuses, the earlier ones are given back. That is still all or none, though
others may for a moment see what is then given back.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from xrouter.limits.limit import Change, Claim, Decision, Limit, Mark, State
from xrouter.limits.redis_client import Call, Client, Reply
from xrouter.limits.redis_link import DEADLINE_S, RedisLink
from xrouter.limits.store import Counters, StoreDown
from xrouter.limits.telling import Telling

log = logging.getLogger("xrouter.limits")
Part = TypeVar("Part", Claim, Change)

LEASE_S: Final = 15.0
_MOST_KEPT: Final = 10_000  # corrections that wait for a server that is away
_CHUNK: Final = 200  # changes in one call: the script holds up others for some 2 ms at most


class RedisStore:
    """`cluster`: whether the keys of one call must share a hash tag. `lease_s`: a dead process keeps its places so long.

    `deadline_s`: what a call may take of a server that is well.
    """

    def __init__(
        self, client: Client, *, cluster: bool = False, lease_s: float = LEASE_S, deadline_s: float = DEADLINE_S
    ) -> None:
        self._counters = Counters()
        self._link = RedisLink(client, self._renew, deadline_s=deadline_s)
        self._cluster = cluster
        self._lease_s = lease_s
        self._lease_us = int(lease_s * 1_000_000)
        self._held: dict[tuple[str, str], Limit] = {}  # the leases of requests under way, by key and lease
        self._kept: deque[Change] = deque()
        self._lost = 0  # of those kept
        self._telling = Telling()
        self._behind = False  # whether anything is kept or to be told
        self._renewing: asyncio.Task[None] | None = None
        self._replaced = False

    @property
    def counters(self) -> Counters:
        self._counters.store_errors = self._link.errors
        self._counters.lost_changes = self._lost + self._telling.lost
        return self._counters

    @property
    def degraded(self) -> bool:
        return self._link.degraded

    @property
    def returning(self) -> bool:
        return self._link.returning

    async def start(self) -> None:
        await self._link.start()
        self._renewing = asyncio.create_task(self._renew_forever(), name="limits: leases")

    async def aclose(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await self._link.aclose()

    async def admit(self, lease: str, claims: Sequence[Claim], otherwise: Sequence[Change] = ()) -> Decision:
        keys = [claim.key for claim in claims] + [change.key for change in otherwise]
        if not self._cluster or len(set(map(_tag, keys))) == 1:
            return await self._admit_at_once(lease, claims, otherwise)
        return await self._admit_in_turn(lease, claims, otherwise)

    async def _admit_at_once(self, lease: str, claims: Sequence[Claim], otherwise: Sequence[Change]) -> Decision:
        reply = self._link.call(self._encode(lease, claims, otherwise))
        try:
            decision = self._decision(lease, claims, await asyncio.shield(reply))
        except asyncio.CancelledError:
            # Nobody will hear the answer: whatever it is, in the end nothing is taken and `otherwise` is applied.
            reply.add_done_callback(lambda done: self._undo(done, lease, claims, otherwise))
            raise
        if not decision.admitted:
            self._hold(otherwise)  # the script has applied it
        return decision

    async def _admit_in_turn(self, lease: str, claims: Sequence[Claim], otherwise: Sequence[Change]) -> Decision:
        states: dict[str, State] = {}
        undo: list[Change] = []
        try:
            for group in _by_tag(claims):
                decision = await self._admit_at_once(lease, group, ())
                states.update(zip((claim.key for claim in group), decision.states, strict=True))
                if not decision.admitted:
                    break
                undo += _given_back(group, decision)
            else:
                return Decision(True, tuple(states[claim.key] for claim in claims))
        except StoreDown:
            self.settle(undo)
            raise
        except asyncio.CancelledError:
            self.settle([*undo, *otherwise])
            raise
        self.settle([*undo, *otherwise])
        return Decision(False, tuple(states.get(claim.key) or _unasked(claim) for claim in claims))

    def settle(self, changes: Sequence[Change]) -> None:
        self._hold(changes)
        for group in _by_tag(changes) if self._cluster else [list(changes)]:
            for at in range(0, len(group), _CHUNK):
                self._send(group[at : at + _CHUNK])

    def _hold(self, changes: Sequence[Change]) -> None:
        """Which leases are renewed from now on, and which no more."""
        for change in changes:
            if change.limit.kind == "concurrency":
                lease = change.key, str(change.mark)
                if change.delta < 0:
                    self._held.pop(lease, None)
                else:  # if the server is away, it is taken there when it is back, with the renewals
                    self._held[lease] = change.limit

    def _send(self, changes: list[Change]) -> None:
        named = self._telling.named(changes)
        reply = self._link.call(self._encode("", (), named))
        if reply.done():  # it is away; kept now and not in the loop's next turn, in which it may be back and be asked
            self._sent(reply, changes, named)
        else:
            reply.add_done_callback(lambda done: self._sent(done, changes, named))

    def _sent(self, done: asyncio.Future[Reply], changes: Sequence[Change], named: Sequence[Change]) -> None:
        """Keep what could not be sent until the server is back.

        Where it is not known whether a call has run, only those changes are repeated of which a second time does no harm to
        the limit: the end of a lease, a use by its name, and a correction to more use.
        """
        error = done.exception()
        if not isinstance(error, StoreDown):
            return
        self._behind = True
        for change in named if error.sent else changes:
            if (age_us := change.age_us) is not None:
                self._telling.keep(change, age_us)
            elif change.limit.kind == "concurrency" and not change.delta:
                continue  # the renewals take the lease if its request is still under way, and only then
            elif not error.sent or change.delta > 0 or (change.limit.kind == "concurrency" and change.delta < 0):
                self._kept.append(change)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popleft()
            self._lost += 1

    def _catch_up(self) -> None:
        """The server answers: send what could not be sent. What fails again is kept again."""
        self._behind = False
        kept, self._kept = [*self._kept, *self._telling.drain()], deque()
        if kept:
            self.settle(kept)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            self._renew()

    def _renew(self) -> None:
        """Bring the server up to date: when it is back, and now and then."""
        if self._link.degraded:
            return
        if self._behind:
            self._catch_up()
        if self._held:
            self.settle([Change(limit, key, lease, 0) for (key, lease), limit in self._held.items()])

    def _encode(self, lease: str, claims: Sequence[Claim], changes: Sequence[Change]) -> Call:
        """What limits.lua is to be told."""
        lines = [f"{len(claims)} {self._lease_us} {lease}"]
        lines += [f"{claim.limit.code} {claim.amount}" for claim in claims]
        lines += [f"{change.limit.code} {change.delta} {_mark(change)}" for change in changes]
        return [claim.key for claim in claims] + [change.key for change in changes], "\n".join(lines)

    def _decision(self, lease: str, claims: Sequence[Claim], reply: Reply) -> Decision:
        if self._behind and not self._link.degraded:
            self._catch_up()
        decision, replaced = _decode(lease, claims, reply)
        if replaced and not self._replaced:
            self._replaced = True
            log.warning("limits: a key of Redis held something that is not a limit's state; it was replaced")
        if decision.admitted:
            for claim, state in zip(claims, decision.states, strict=True):
                if claim.limit.kind == "concurrency" and state.fits and claim.amount:
                    self._held[claim.key, lease] = claim.limit
        return decision

    def _undo(
        self, done: asyncio.Future[Reply], lease: str, claims: Sequence[Claim], otherwise: Sequence[Change]
    ) -> None:
        if done.cancelled():
            return
        if done.exception() is not None:  # it may have run. A lease can be ended twice, but a use not uncounted twice
            ends = [*(Change(claim.limit, claim.key, lease, -1) for claim in claims), *otherwise]
            self.settle([end for end in ends if end.limit.kind == "concurrency"])
            return
        decision, _ = _decode(lease, claims, done.result())
        if decision.admitted:
            self.settle([*_given_back(claims, decision), *otherwise])
        else:
            self._hold(otherwise)


def _mark(change: Change) -> Mark:
    return f"{change.mark} {change.name}" if change.name else change.mark


def _decode(lease: str, claims: Sequence[Claim], reply: Reply) -> tuple[Decision, bool]:
    """The decision, and whether a key was replaced that held something else."""
    admitted, replaced, *rest = map(int, reply.split())
    states = []
    for claim, at in zip(claims, range(0, len(rest), 5), strict=True):
        fits, remaining, reset_us, retry_us, mark = rest[at : at + 5]
        own_mark = lease if claim.limit.kind == "concurrency" else mark
        states.append(State(bool(fits), remaining, reset_us, retry_us, own_mark))
    return Decision(bool(admitted), tuple(states)), bool(replaced)


def _given_back(claims: Sequence[Claim], decision: Decision) -> list[Change]:
    pairs = zip(claims, decision.states, strict=True)
    return [Change(c.limit, c.key, state.mark, -c.amount) for c, state in pairs if state.fits and c.amount]


def _unasked(claim: Claim) -> State:
    """Of a limit on a node that was not reached, since another one refused: nothing is known of it."""
    return State(True, claim.limit.most, 0, 0, 0)


def _tag(key: str) -> str:
    """The part of a key that decides which node of a cluster has it."""
    return key[key.index("{") + 1 : key.index("}")]


def _by_tag(parts: Iterable[Part]) -> list[list[Part]]:
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(_tag(part.key), []).append(part)
    return list(groups.values())
