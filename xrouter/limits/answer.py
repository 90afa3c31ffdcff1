"""What came of a request's admission: what it holds of each limit, and where they stand."""

from msgspec import Struct

from xrouter.limits.limit import Claim, Mark, Standing


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
