"""The parts of a gateway that a request changes, as they can be looked at: the limits and the ledger."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from xrouter.ledger.credits_left import CreditsLeft
from xrouter.ledger.limits import SpendingLimit
from xrouter.ledger.operations import HoldGranted, OpenHold, Settled, Settlement
from xrouter.limits.limit import Change, Claim, Decision, Limit, State
from xrouter.limits.store import Counters, LimitStore

Look = Callable[[OpenHold], Awaitable[HoldGranted]]

# A claim on it never fits. Since all claims of a call are taken or none, the others are only looked at.
_BLOCK: Final = Limit(name="explain", per="key", kind="requests", amount=1, window_s=1, burst=1)


@dataclass(slots=True)
class Seen:
    """What one explanation has met. `hold` is None where the request is free or did not come so far."""

    limits: list[tuple[Claim, State]] = field(default_factory=list)
    wanted_nano: int | None = None
    hold: HoldGranted | None = None


class LookingLimits:
    """Answers admissions as the store would, and takes nothing. `seen` by the lease: the generation's id."""

    def __init__(self, store: LimitStore) -> None:
        self._store = store
        self.counters = Counters()
        self.seen: dict[str, Seen] = {}

    @property
    def degraded(self) -> bool:
        return self._store.degraded

    @property
    def returning(self) -> bool:
        """Nothing was admitted, so there is nothing to tell."""
        return False

    async def start(self) -> None:
        """The store is the gateway's own, and runs."""

    async def aclose(self) -> None:
        """The store goes on."""

    async def admit(self, lease: str, claims: Sequence[Claim], otherwise: Sequence[Change] = ()) -> Decision:
        """Raises StoreDown."""
        found: dict[int, State] = {}
        for tag, group in _by_tag(claims).items():
            block = Claim(_BLOCK, f"xrl:{{{tag}}}:explain", 2)
            decision = await self._store.admit(lease, [claim for _, claim in group] + [block])
            found.update(zip([index for index, _ in group], decision.states[:-1], strict=True))
        states = tuple(found[index] for index in range(len(claims)))
        if lease in self.seen:
            self.seen[lease].limits += zip(claims, states, strict=True)
        admitted = all(state.fits or claim.limit.shadow for claim, state in zip(claims, states, strict=True))
        return Decision(admitted, states)

    def settle(self, changes: Sequence[Change]) -> None:
        """Nothing was taken, so there is nothing to correct."""


class LookingLedger:
    """Answers holds as the ledger would, and holds nothing. `look` asks it; `credits_left` are its own."""

    def __init__(self, look: Look, limits: LookingLimits, credits_left: CreditsLeft) -> None:
        self.credits_left = credits_left
        self._look = look
        self._seen = limits.seen

    async def hold(
        self,
        generation_id: str,
        account: str,
        key_hash: str,
        *,
        wanted_nano: int,
        least_nano: int,
        quota: tuple[SpendingLimit, ...] = (),
    ) -> HoldGranted:
        """Raises PaymentRequired and StoreUnavailable."""
        seen = self._seen.get(generation_id, Seen())
        seen.wanted_nano = wanted_nano
        seen.hold = await self._look(
            OpenHold(generation_id, account, key_hash, wanted_nano, least_nano, "explain", quota, look=True)
        )
        return seen.hold

    async def release(self, generation_id: str) -> None:
        """Nothing was held."""

    async def settle(self, settlement: Settlement, *, delivered: bool) -> Settled:
        """Nothing was generated: a filter that answers by itself ends here, and is charged nothing."""
        return Settled(settlement.generation_id, settlement.cost_nano, 0, 0)


def _by_tag(claims: Iterable[Claim]) -> dict[str, list[tuple[int, Claim]]]:
    """By the part of the key that a cluster's node goes by: one call reaches one node."""
    groups: dict[str, list[tuple[int, Claim]]] = {}
    for index, claim in enumerate(claims):
        tag = claim.key[claim.key.index("{") + 1 : claim.key.index("}")]
        groups.setdefault(tag, []).append((index, claim))
    return groups
