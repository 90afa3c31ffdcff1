"""One request's way through its limits: taken when it comes and when it is counted, corrected when it ends.

At the filter's turn the body is not read yet, so the model, the user and the tokens are not known. Refusing a client that is
over its limit must cost no body; and yet all limits are to be taken together or not at all. So an admission has two steps,
each one call of the store, which is one atomic script in Redis:

1. `enter`, before the body is read, takes requests and concurrency of the key, account, address and tier. A limit of tokens
   that is spent refuses here already, which takes nothing of it.
2. `reserve`, called by `token_count`, takes everything else: tokens by estimate, and what goes by model or user. If it
   refuses, the same script gives back what step 1 took. It asks the store nothing if there is nothing left to take.

No counter ever exceeds its limit by this, and a refused request leaves none of them changed. The price is that a request
which step 2 will refuse fills a place for the time between: another one may then be refused a place that a moment later is
free. It errs on the side of the limit.

Tokens of an answer cannot be known: what is reserved is the client's own bound, or a modest assumption, and what was really
used replaces it when the request ends. An answer longer than reserved leaves its limit overdrawn, which later requests wait
for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from xrouter.catalog import Catalog
from xrouter.context import ContractError, RequestContext
from xrouter.events import Usage
from xrouter.ledger.credits_left import CreditsLeft
from xrouter.limits.answer import Taken
from xrouter.limits.credits import dearest, from_nano
from xrouter.limits.headers import add_headers, refusal, worst_refusal
from xrouter.limits.limit import Claim, Kind, Limit, Standing
from xrouter.limits.limiter import Limiter
from xrouter.limits.rules import Rules
from xrouter.limits.subject import models, state_key

_ADMISSION: Final = object()  # where the admission is in ctx.stash


@dataclass(frozen=True, slots=True)
class Terms:
    """What all admissions of one filter go by."""

    rules: Rules
    limiter: Limiter
    catalog: Catalog
    credits_left: CreditsLeft
    assumed_output_tokens: int


class Admission:
    """Made for one request, by the filter `rate_limit`."""

    __slots__ = ("_ctx", "_rules", "_standings", "_taken", "_terms", "_told")

    def __init__(self, ctx: RequestContext, terms: Terms) -> None:
        if ctx.stash.setdefault(_ADMISSION, self) is not self:
            raise ContractError("rate_limit is in the chain twice")
        self._ctx, self._terms = ctx, terms
        self._rules = terms.rules.of(ctx.principal.tier)
        self._taken: list[Taken] = []
        self._standings: list[Standing] = []
        self._told = False

    async def enter(self) -> None:
        """Step 1. Raises RateLimited and StoreUnavailable."""
        rules = self._rules
        if rules.first:
            await self._admit(self._claims(rules.first))
        if not rules.late:
            self._admitted()

    async def reserve(self) -> None:
        """Step 2. Raises RateLimited, after which nothing is taken any more, and StoreUnavailable."""
        rules = self._rules
        limits = rules.late
        if not limits:
            return
        if rules.by_model:
            wanted = models(self._ctx)
            limits = tuple([limit for limit in limits if self._terms.rules.names(limit, wanted)])
        if limits:
            await self._admit(self._claims([(limit, self._amount(limit)) for limit in limits]))
        self._admitted()

    def finish(self) -> None:
        """Put the real usage in the place of the reserved one, and end the concurrency leases. Never waits."""
        if not self._told:  # it ended between the steps; edge has yet to answer why
            self._tell(self._standings)
        taken, self._taken = self._taken, []
        changes = [
            (one, delta)
            for one in taken
            if one.claim.limit.kind != "requests"  # it was made, however it ended
            and ((delta := self._correction(one.claim)) or (one.mark is None and one.owed))
        ]
        if changes:
            self._terms.limiter.settle(changes)

    def _admitted(self) -> None:
        limiter = self._terms.limiter
        limiter.store.counters.admitted += 1
        limiter.told(self._taken)
        self._tell(self._standings)

    def _tell(self, standings: list[Standing], refused: Standing | None = None) -> None:
        self._ctx.shadow_limits = add_headers(self._ctx.response_headers, standings, refused)
        self._told = True

    async def _admit(self, claims: list[Claim]) -> None:
        limiter, lease = self._terms.limiter, self._ctx.generation_id
        before = self._taken
        answer = limiter.admit_at_once(lease, claims, before)
        if answer is None:
            # If this is cancelled the store gives back the claims and what was taken before, so neither is held here.
            self._taken = []
            try:
                answer = await limiter.admit(lease, claims, before)
            except Exception:
                self._taken = before
                raise
        if not answer.admitted:
            self._taken = []
            refused = worst_refusal(answer.standings)
            self._tell([*map(_given_back, self._standings), *answer.standings], refused)
            raise refusal(*refused)
        self._taken = before + answer.taken if before else answer.taken
        standings = answer.standings
        if self._standings:
            told = {claim.key for claim, _ in standings}
            standings = [one for one in self._standings if one[0].key not in told] + standings
        self._standings = standings

    def _claims(self, wanted: Sequence[tuple[Limit, int]]) -> list[Claim]:
        ctx, default_tier = self._ctx, self._terms.rules.default_tier
        return [
            Claim(self._sized(limit) if limit.credits_most else limit, state_key(limit, ctx, default_tier), amount)
            for limit, amount in wanted
        ]

    def _sized(self, limit: Limit) -> Limit:
        return limit.for_credits(self._terms.credits_left.of(self._ctx.principal.key_id))

    def _amount(self, limit: Limit) -> int:
        """What the request takes of a limit in step 2.

        The bound on an answer is cut to what the limit can ever give, or a generous `max_tokens` could never be served. The
        prompt is not: one that is longer than the limit allows is refused.
        """
        kind = limit.kind
        if kind == "requests" or kind == "concurrency":
            return 1
        estimate = self._ctx.estimate
        cap = estimate.output_cap
        output = self._terms.assumed_output_tokens if cap is None else cap * self._ctx.call.request.answers()
        most = self._sized(limit).most if limit.credits_most else limit.most
        whole = self._of(kind, estimate.input_tokens, output)
        return whole if whole <= most else max(self._of(kind, estimate.input_tokens, 0), most)

    def _of(self, kind: Kind, input_tokens: int, output_tokens: int) -> int:
        match kind:
            case "input_tokens":
                return input_tokens
            case "output_tokens":
                return output_tokens
            case "credits":
                return dearest(self._terms.catalog, models(self._ctx), input_tokens, output_tokens)
            case _:
                return input_tokens + output_tokens

    def _correction(self, claim: Claim) -> int:
        """Of any kind but requests."""
        match claim.limit.kind:
            case "concurrency":
                return -1
            case kind:
                return self._used(kind) - claim.amount

    def _used(self, kind: Kind) -> int:
        """What was really used: nothing if the request ended before an upstream generated anything."""
        ctx = self._ctx
        usage: Usage | None = ctx.outcome.usage if "outcome" in ctx else None
        if usage is None:
            return 0
        if kind == "credits" and "quote" in ctx:
            return from_nano(ctx.quote.cost(usage, ctx.outcome.target))
        return self._of(kind, usage.input_tokens, usage.output_tokens)


def _given_back(standing: Standing) -> Standing:
    """Where the limit stands without what this request had taken of it."""
    claim, state = standing
    return claim, replace(
        state, remaining=min(claim.limit.most, state.remaining + claim.amount)
    ) if state.fits else state


async def reserve(ctx: RequestContext) -> None:
    """The second step of the request's admission, if `rate_limit` is in the chain: for `token_count` to call.

    Raises RateLimited and StoreUnavailable.
    """
    admission: Admission | None = ctx.stash.get(_ADMISSION)
    if admission is not None:
        await admission.reserve()
