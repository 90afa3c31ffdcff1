"""Admission by the store, or by `on_store_failure` while the store is away."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from msgspec import Struct

from xrouter.errors import StoreUnavailable
from xrouter.limits.limit import NOW, Change, Claim, Mark, Standing
from xrouter.limits.memory import MemoryStore
from xrouter.limits.store import LimitStore, StoreDown
from xrouter.world import World

OnStoreFailure = Literal["deny", "allow", "local_share"]

_PROBE_S: Final = 1.0  # a store that is away is asked again so often


class Taken(Struct, frozen=True):
    """What a request holds of one limit: in the store, and noted in this process' share of it."""

    claim: Claim
    mark: Mark | None  # None: the store was away, and only the share holds it
    share: Claim | None = None
    share_mark: Mark = 0  # for a place of a concurrency limit the lease, as in the store

    @property
    def owed(self) -> bool:
        """Whether the store is to hear of it when the request ends, and what it took is known."""
        return self.mark is None and self.claim.limit.kind not in ("requests", "concurrency")


class Answer(Struct, frozen=True):
    """`standings`: the claims that were asked about, which are shares of the limits where the store is away, and none if all
    is allowed."""

    admitted: bool
    standings: list[Standing]
    taken: list[Taken]


class Limiter:
    """`workers`: how many processes share each limit when they cannot count together.

    Under `local_share` every admission by the store is noted in this process' share too. So when the store goes away in the
    middle of a window, what this process has used of its share is known, and a limit that is nearly spent stays so. And what
    the share has admitted is told to the store when it is back: requests and places at once (`told`), the rest when its
    request has ended (`settle`). It counts there from then on, with what the calls that failed may have taken besides.
    """

    def __init__(self, store: LimitStore, on_store_failure: OnStoreFailure, workers: int, world: World) -> None:
        self.store = store
        self._on_store_failure = on_store_failure
        self._workers = workers
        self._local = MemoryStore(world)
        self._memory = store if isinstance(store, MemoryStore) else None  # never away, and never has to be waited for
        self._notes = on_store_failure == "local_share" and self._memory is None

    def admit_at_once(self, lease: str, claims: Sequence[Claim]) -> Answer | None:
        """Take all of `claims` if that needs no waiting and nothing refuses; else `admit` has to be asked."""
        if self._memory is None:
            return None
        states = self._memory.take(lease, claims)
        if states is None:
            return None
        standings = list(zip(claims, states, strict=True))
        return self._counted(Answer(True, standings, _taken(standings)))

    async def admit(self, lease: str, claims: Sequence[Claim], otherwise: Sequence[Taken] = ()) -> Answer:
        """Take all of `claims`, or none and give all of `otherwise` back. Raises StoreUnavailable under `deny`."""
        in_store = _in_store([(taken, -taken.claim.amount) for taken in otherwise]) if otherwise else []
        try:
            decision = await self.store.admit(lease, claims, in_store)
        except asyncio.CancelledError:  # the store gives back what it holds, so the share does too
            self._give_back(otherwise)
            raise
        except StoreDown as error:
            answer = await self._without_store(lease, claims, error)
            if not answer.admitted:
                # The call may have given back already. A lease can be ended twice, but a request not uncounted twice.
                self.store.settle([change for change in in_store if change.limit.kind == "concurrency"])
        else:
            standings = list(zip(claims, decision.states, strict=True))
            taken = self._noted(lease, _taken(standings)) if decision.admitted else []
            answer = Answer(decision.admitted, standings, taken)
        if not answer.admitted:
            self._give_back(otherwise)
        return self._counted(answer)

    def settle(self, changes: Sequence[tuple[Taken, int]]) -> None:
        """Add to each what it is paired with. Never waits, never fails."""
        if self._notes:
            self._local.settle([_in_share(taken, delta) for taken, delta in changes if taken.share])
        if in_store := _in_store(changes):
            self.store.settle(in_store)

    def told(self, held: Iterable[Taken]) -> None:
        """The store is to hear of a request that is admitted now, as far as it was away. Never waits, never fails."""
        if not self._notes:  # then it was never away, or nobody is told
            return
        changes = []
        for taken in held:
            limit, key = taken.claim.limit, taken.claim.key
            if taken.mark is not None:
                continue
            if limit.kind == "requests":
                changes.append(Change(limit, key, NOW, taken.claim.amount))
            elif limit.kind == "concurrency":
                changes.append(Change(limit, key, taken.share_mark, 0))
        if changes:
            self.store.settle(changes)

    def _give_back(self, held: Iterable[Taken]) -> None:
        self._local.settle([_in_share(taken, -taken.claim.amount) for taken in held if taken.share])

    def _noted(self, lease: str, taken: list[Taken]) -> list[Taken]:
        if not self._notes:
            return taken
        shares = [self._share(one.claim, one.claim.amount) for one in taken]
        marks = self._local.count(lease, shares)
        return [Taken(one.claim, one.mark, share, own) for one, share, own in zip(taken, shares, marks, strict=True)]

    async def _without_store(self, lease: str, claims: Sequence[Claim], error: StoreDown) -> Answer:
        match self._on_store_failure:
            case "deny":
                raise StoreUnavailable(
                    "The gateway cannot count its rate limits now; try again", retry_after_s=_PROBE_S, detail=str(error)
                ) from error
            case "allow":
                return Answer(True, [], [])
            case "local_share":
                # A claim that is larger than the share, but not than the limit, takes the whole share.
                shares = [self._share(claim, self._cut(claim)) for claim in claims]
                decision = await self._local.admit(lease, shares)
                taken = [
                    Taken(Claim(claim.limit, claim.key, share.amount), None, share, state.mark)
                    for claim, share, state in zip(claims, shares, decision.states, strict=True)
                    if decision.admitted and state.fits and share.amount
                ]
                return Answer(decision.admitted, list(zip(shares, decision.states, strict=True)), taken)

    def _share(self, claim: Claim, amount: int) -> Claim:
        return Claim(claim.limit.share(self._workers), claim.key, amount)

    def _cut(self, claim: Claim) -> int:
        return (
            claim.amount
            if claim.amount > claim.limit.most
            else min(claim.amount, claim.limit.share(self._workers).most)
        )

    def _counted(self, answer: Answer) -> Answer:
        for claim, state in answer.standings:
            if not state.fits:
                counters = self.store.counters
                (counters.shadow_refused if claim.limit.shadow else counters.refused)[claim.limit.name] += 1
        return answer


def _taken(standings: list[Standing]) -> list[Taken]:
    """What an admission has taken: all but looks, and shadow limits without room."""
    return [Taken(claim, state.mark) for claim, state in standings if claim.amount and state.fits]


def _in_store(changes: Iterable[tuple[Taken, int]]) -> list[Change]:
    found = []
    for taken, delta in changes:
        limit, key = taken.claim.limit, taken.claim.key
        if taken.mark is not None:
            found.append(Change(limit, key, taken.mark, delta))
        elif limit.kind == "concurrency":
            found.append(Change(limit, key, taken.share_mark, delta))
        elif taken.owed and (used := taken.claim.amount + delta) > 0:
            found.append(Change(limit, key, NOW, used))
    return found


def _in_share(taken: Taken, delta: int) -> Change:
    assert taken.share is not None
    return Change(taken.share.limit, taken.share.key, taken.share_mark, delta)
