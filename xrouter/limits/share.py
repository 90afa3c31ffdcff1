"""A process' share of each limit: what it goes by while the store of limits is away."""

from collections.abc import Iterable, Sequence
from typing import Final

from xrouter.limits.answer import Answer, Taken
from xrouter.limits.limit import MICRO, Change, Claim, Standing, State
from xrouter.limits.memory import MemoryStore
from xrouter.world import World

_MOST_REFUSALS: Final = 10_000  # the oldest one goes: then the share decides


class Share:
    """Each limit divided by `processes`: how many share it when they cannot count together.

    What the store admits is noted here too. So when it goes away in the middle of a window, what this process has used of
    its share is known. And what the store has refused is refused here as well until the time that it told: a limit that
    others have spent is spent, whatever is left of the share.
    """

    def __init__(self, processes: int, world: World) -> None:
        self._processes = processes
        self._monotonic = world.monotonic
        self._uses = MemoryStore(world)
        self._refused: dict[str, tuple[int, int]] = {}  # by key: until when so much and more is refused

    def note(self, lease: str, taken: list[Taken]) -> list[Taken]:
        """What the store has admitted counts, whether it fits or not."""
        if self._refused:
            for one in taken:
                self._refused.pop(one.claim.key, None)
        shares = [self._of(one.claim, one.claim.amount) for one in taken]
        marks = self._uses.count(lease, shares)
        return [Taken(one.claim, one.mark, share, own) for one, share, own in zip(taken, shares, marks, strict=True)]

    def note_refusal(self, standings: Iterable[Standing]) -> None:
        now_us = self._now_us()
        for claim, state in standings:
            if not state.fits and state.retry_us > 0 and not claim.limit.shadow:
                self._refused.pop(claim.key, None)  # to the end
                self._refused[claim.key] = now_us + state.retry_us, claim.amount or 1
        while len(self._refused) > _MOST_REFUSALS:
            del self._refused[next(iter(self._refused))]

    def admit(self, lease: str, claims: Sequence[Claim]) -> Answer:
        """Take all of `claims`, or none. A claim that is larger than the share, but not than the limit, takes all of it."""
        if self._refused and (refused := self._still_refused(claims)):
            return Answer(False, refused, [])
        shares = [self._of(claim, self._cut(claim)) for claim in claims]
        decision = self._uses.decide(lease, shares)
        taken = [
            Taken(Claim(claim.limit, claim.key, share.amount), None, share, state.mark)
            for claim, share, state in zip(claims, shares, decision.states, strict=True)
            if decision.admitted and state.fits and share.amount
        ]
        return Answer(decision.admitted, list(zip(shares, decision.states, strict=True)), taken)

    def give_back(self, held: Iterable[Taken]) -> None:
        self.settle([(taken, -taken.claim.amount) for taken in held])

    def settle(self, changes: Iterable[tuple[Taken, int]]) -> None:
        self._uses.settle(
            [
                Change(taken.share.limit, taken.share.key, taken.share_mark, delta)
                for taken, delta in changes
                if taken.share is not None
            ]
        )

    def _still_refused(self, claims: Iterable[Claim]) -> list[Standing]:
        now_us = self._now_us()
        found = []
        for claim in claims:
            until_us, amount = self._refused.get(claim.key, (0, 0))
            if until_us > now_us and (claim.amount or 1) >= amount and not claim.limit.shadow:
                wait_us = until_us - now_us
                found.append((claim, State(False, 0, wait_us, wait_us, 0)))
        return found

    def _of(self, claim: Claim, amount: int) -> Claim:
        return Claim(claim.limit.share(self._processes), claim.key, amount)

    def _cut(self, claim: Claim) -> int:
        whole = claim.limit.most
        return claim.amount if claim.amount > whole else min(claim.amount, claim.limit.share(self._processes).most)

    def _now_us(self) -> int:
        return int(self._monotonic() * MICRO)
