"""Admission by the store, or by `on_store_failure` while the store is away."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from xrouter.errors import StoreUnavailable
from xrouter.limits.answer import Answer, Taken
from xrouter.limits.limit import NOW, Change, Claim, Standing
from xrouter.limits.memory import MemoryStore
from xrouter.limits.share import Share
from xrouter.limits.store import LimitStore, StoreDown
from xrouter.world import World

OnStoreFailure = Literal["deny", "allow", "local_share"]

_PROBE_S: Final = 1.0  # a store that is away is asked again so often


class Limiter:
    """Under `local_share` every admission by the store is noted in this process' share too. And what the share has admitted
    is told to the store when it is back: requests and places at once (`told`), the rest when its request has ended
    (`settle`). It counts there from then on, with what the calls that failed may have taken besides.

    While the store is returning it does not know yet what other processes admitted without it, so the share has to have room
    as well: processes whose shares are the limit together then do not exceed it at either end of an outage.
    """

    def __init__(self, store: LimitStore, on_store_failure: OnStoreFailure, processes: int, world: World) -> None:
        self.store = store
        self._on_store_failure = on_store_failure
        self._memory = store if isinstance(store, MemoryStore) else None  # never away, and never has to be waited for
        self._share = Share(processes, world) if on_store_failure == "local_share" and self._memory is None else None

    def admit_at_once(self, lease: str, claims: Sequence[Claim], otherwise: Sequence[Taken] = ()) -> Answer | None:
        """`admit`, if that needs no waiting; else None."""
        if self._memory is None:
            return None
        decision = self._memory.decide(lease, claims, _in_store(_given_back(otherwise)) if otherwise else ())
        standings = list(zip(claims, decision.states, strict=True))
        return self._counted(Answer(decision.admitted, standings, _taken(standings) if decision.admitted else []))

    async def admit(self, lease: str, claims: Sequence[Claim], otherwise: Sequence[Taken] = ()) -> Answer:
        """Take all of `claims`, or none and give all of `otherwise` back. Raises StoreUnavailable under `deny`."""
        in_store = _in_store(_given_back(otherwise)) if otherwise else []
        share = self._share
        by_share = share.admit(lease, claims) if share is not None and self.store.returning else None
        if by_share is not None and not by_share.admitted:
            self.store.settle(in_store)
            return self._ended(by_share, otherwise)
        try:
            decision = await self.store.admit(lease, claims, in_store)
        except asyncio.CancelledError:  # the store gives back what it holds, so the share does too
            if share is not None:
                share.give_back([*otherwise, *(by_share.taken if by_share else ())])
            raise
        except StoreDown as error:
            answer = by_share or self._without_store(lease, claims, error)
            if not answer.admitted:
                # The call may have given back already. A lease can be ended twice, but a request not uncounted twice.
                self.store.settle([change for change in in_store if change.limit.kind == "concurrency"])
            return self._ended(answer, otherwise)
        standings = list(zip(claims, decision.states, strict=True))
        taken = _taken(standings) if decision.admitted else []
        if share is not None:
            if by_share is not None:
                share.give_back(by_share.taken)  # it is noted as the store took it
            if decision.admitted:
                taken = share.note(lease, taken)
            else:
                share.note_refusal(standings)
        return self._ended(Answer(decision.admitted, standings, taken), otherwise)

    def settle(self, changes: Sequence[tuple[Taken, int]]) -> None:
        """Add to each what it is paired with. Never waits, never fails."""
        if self._share is not None:
            self._share.settle(changes)
        if in_store := _in_store(changes):
            self.store.settle(in_store)

    def told(self, held: Iterable[Taken]) -> None:
        """The store is to hear of a request that is admitted now, as far as it was away. Never waits, never fails."""
        if self._share is None:  # then it was never away, or nobody is told
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

    def _without_store(self, lease: str, claims: Sequence[Claim], error: StoreDown) -> Answer:
        if self._share is not None:
            return self._share.admit(lease, claims)
        if self._on_store_failure == "allow":
            return Answer(True, [], [])
        raise StoreUnavailable(
            "The gateway cannot count its rate limits now; try again", retry_after_s=_PROBE_S, detail=str(error)
        ) from error

    def _ended(self, answer: Answer, otherwise: Sequence[Taken]) -> Answer:
        if not answer.admitted and self._share is not None:
            self._share.give_back(otherwise)
        return self._counted(answer)

    def _counted(self, answer: Answer) -> Answer:
        for claim, state in answer.standings:
            if not state.fits:
                counters = self.store.counters
                (counters.shadow_refused if claim.limit.shadow else counters.refused)[claim.limit.name] += 1
        return answer


def _taken(standings: list[Standing]) -> list[Taken]:
    """What an admission has taken: all but looks, and shadow limits without room."""
    return [Taken(claim, state.mark) for claim, state in standings if claim.amount and state.fits]


def _given_back(held: Iterable[Taken]) -> list[tuple[Taken, int]]:
    return [(taken, -taken.claim.amount) for taken in held]


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
