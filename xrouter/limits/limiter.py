"""Admission by the store, or by `on_store_failure` while the store is away."""

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from xrouter.errors import StoreUnavailable
from xrouter.limits.limit import Change, Claim, Decision, Mark
from xrouter.limits.memory import MemoryStore
from xrouter.limits.store import LimitStore, StoreDown
from xrouter.world import World

OnStoreFailure = Literal["deny", "allow", "local_share"]

_PROBE_S: Final = 1.0  # a store that is away is asked again so often


class Taken(Struct, frozen=True):
    """What a request holds of one limit, and in which store: what was taken here is corrected here."""

    store: LimitStore
    claim: Claim
    mark: Mark

    def change(self, delta: int) -> Change:
        return Change(self.claim.limit, self.claim.key, self.mark, delta)


class Answer(Struct, frozen=True):
    """`claims` are those that were asked about: a share of each limit where the store is away, none if all is allowed."""

    decision: Decision
    claims: tuple[Claim, ...]
    store: LimitStore

    def taken(self) -> list[Taken]:
        if not self.decision.admitted:
            return []
        pairs = zip(self.claims, self.decision.states, strict=True)
        return [Taken(self.store, claim, state.mark) for claim, state in pairs if state.fits and claim.amount]


class Limiter:
    """`workers`: how many processes share each limit when they cannot count together."""

    def __init__(self, store: LimitStore, on_store_failure: OnStoreFailure, workers: int, world: World) -> None:
        self.store = store
        self._on_store_failure = on_store_failure
        self._local = MemoryStore(world)
        self._workers = workers

    async def admit(self, lease: str, claims: Sequence[Claim], otherwise: Sequence[Taken] = ()) -> Answer:
        """Take all of `claims`, or none and give all of `otherwise` back. Raises StoreUnavailable under `deny`."""
        here = [taken.change(-taken.claim.amount) for taken in otherwise if taken.store is self.store]
        elsewhere = [taken for taken in otherwise if taken.store is not self.store]
        try:
            answer = Answer(await self.store.admit(lease, claims, here), tuple(claims), self.store)
        except StoreDown as error:
            answer = await self._without_store(lease, claims, error)
            if not answer.decision.admitted:
                # The call may have given back already. A lease can be ended twice, but a request not uncounted twice.
                self.store.settle([change for change in here if change.limit.kind == "concurrency"])
        if not answer.decision.admitted:
            for taken in elsewhere:
                taken.store.settle([taken.change(-taken.claim.amount)])
        self._count(answer)
        return answer

    async def _without_store(self, lease: str, claims: Sequence[Claim], error: StoreDown) -> Answer:
        match self._on_store_failure:
            case "deny":
                raise StoreUnavailable(
                    "The gateway cannot count its rate limits now; try again", retry_after_s=_PROBE_S, detail=str(error)
                ) from error
            case "allow":
                return Answer(Decision(True, ()), (), self.store)
            case "local_share":
                shares = tuple(map(self._share, claims))
                return Answer(await self._local.admit(lease, shares), shares, self._local)

    def _share(self, claim: Claim) -> Claim:
        """The claim on this process' share of the limit; one that is larger than the share takes all of it."""
        limit = claim.limit.share(self._workers)
        return Claim(limit, claim.key, min(claim.amount, limit.most))

    def _count(self, answer: Answer) -> None:
        counters = self.store.counters
        for claim, state in zip(answer.claims, answer.decision.states, strict=True):
            if not state.fits:
                (counters.shadow_refused if claim.limit.shadow else counters.refused)[claim.limit.name] += 1
