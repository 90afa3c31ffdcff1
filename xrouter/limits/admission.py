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

from typing import Final

from msgspec.structs import replace

from xrouter.catalog import Catalog
from xrouter.context import ContractError, RequestContext
from xrouter.events import Usage
from xrouter.ledger.credits_left import CreditsLeft
from xrouter.limits.credits import dearest, from_nano
from xrouter.limits.headers import Standing, add_headers, refusal, worst_refusal
from xrouter.limits.limit import Claim, Kind, Limit
from xrouter.limits.limiter import Limiter, Taken
from xrouter.limits.rules import Rules
from xrouter.limits.subject import models, state_key

_ADMISSION: Final = object()  # where the admission is in ctx.stash


class Admission:
    """Made for one request, by the filter `rate_limit`."""

    __slots__ = (
        "_assumed_output",
        "_catalog",
        "_credits_left",
        "_ctx",
        "_limiter",
        "_rules",
        "_standings",
        "_taken",
        "_tier",
        "_tier_rules",
        "_told",
    )

    def __init__(
        self,
        ctx: RequestContext,
        rules: Rules,
        limiter: Limiter,
        catalog: Catalog,
        credits_left: CreditsLeft,
        assumed_output_tokens: int,
    ) -> None:
        if _ADMISSION in ctx.stash:
            raise ContractError("rate_limit is in the chain twice")
        ctx.stash[_ADMISSION] = self
        self._ctx, self._rules, self._limiter, self._catalog = ctx, rules, limiter, catalog
        self._credits_left = credits_left
        self._assumed_output = assumed_output_tokens
        self._tier = rules.tier(ctx.principal.tier)
        self._tier_rules = rules.of(ctx.principal.tier)
        self._taken: list[Taken] = []
        self._standings: list[Standing] = []
        self._told = False

    async def enter(self) -> None:
        """Step 1. Raises RateLimited and StoreUnavailable."""
        rules = self._tier_rules
        early = [self._claim(limit, 1) for limit in rules.early]
        if rules.exhausted:
            early += [self._claim(limit, 0) for limit in rules.exhausted]
        await self._admit(early)
        if not self._tier_rules.late:
            self._admitted()

    async def reserve(self) -> None:
        """Step 2. Raises RateLimited, after which nothing is taken any more, and StoreUnavailable."""
        limits = self._tier_rules.late
        if self._tier_rules.by_model:
            wanted = models(self._ctx)
            limits = tuple([limit for limit in limits if self._rules.names(limit, wanted)])
        await self._admit([self._claim(limit, self._amount(limit)) for limit in limits])
        if self._tier_rules.late:
            self._admitted()

    def finish(self) -> None:
        """Put the real usage in the place of the reserved one, and end the concurrency leases. Never waits."""
        if not self._told:  # it ended between the steps; edge has yet to answer why
            self._tell(self._standings)
        taken, self._taken = self._taken, []
        changes = [
            (one, delta) for one in taken if (delta := self._correction(one.claim)) or (one.mark is None and one.owed)
        ]
        if changes:
            self._limiter.settle(changes)

    def _admitted(self) -> None:
        self._limiter.store.counters.admitted += 1
        self._limiter.told(self._taken)
        self._tell(self._standings)

    def _tell(self, standings: list[Standing], refused: Standing | None = None) -> None:
        self._ctx.shadow_limits = add_headers(self._ctx.response_headers, standings, refused)
        self._told = True

    async def _admit(self, claims: list[Claim]) -> None:
        if not claims:
            return
        # If this is cancelled the store gives back the claims and what was taken before, so neither is held here meanwhile.
        before, self._taken = self._taken, []
        try:
            answer = await self._limiter.admit(self._ctx.generation_id, claims, before)
        except Exception:
            self._taken = before
            raise
        pairs = list(zip(answer.claims, answer.decision.states, strict=True))
        if not answer.decision.admitted:
            refused = worst_refusal(pairs)
            self._tell([*map(_given_back, self._standings), *pairs], refused)
            raise refusal(*refused)
        self._taken = before + answer.taken if before else answer.taken
        if self._standings:
            told = {claim.key for claim in answer.claims}
            pairs = [standing for standing in self._standings if standing[0].key not in told] + pairs
        self._standings = pairs

    def _claim(self, limit: Limit, amount: int) -> Claim:
        return Claim(self._sized(limit), state_key(limit, self._ctx, self._tier), amount)

    def _sized(self, limit: Limit) -> Limit:
        if not limit.credits_most:
            return limit
        return limit.for_credits(self._credits_left.of(self._ctx.principal.key_id))

    def _amount(self, limit: Limit) -> int:
        """What the request takes of a limit in step 2.

        The bound on an answer is cut to what the limit can ever give, or a generous `max_tokens` could never be served. The
        prompt is not: one that is longer than the limit allows is refused.
        """
        if limit.kind in ("requests", "concurrency"):
            return 1
        estimate = self._ctx.estimate
        cap = estimate.output_cap
        choices = getattr(self._ctx.call.request, "n", None) or 1
        output = self._assumed_output if cap is None else cap * choices
        most, whole = self._sized(limit).most, self._of(limit.kind, estimate.input_tokens, output)
        return whole if whole <= most else max(self._of(limit.kind, estimate.input_tokens, 0), most)

    def _of(self, kind: Kind, input_tokens: int, output_tokens: int) -> int:
        match kind:
            case "input_tokens":
                return input_tokens
            case "output_tokens":
                return output_tokens
            case "credits":
                return dearest(self._catalog, models(self._ctx), input_tokens, output_tokens)
            case _:
                return input_tokens + output_tokens

    def _correction(self, claim: Claim) -> int:
        match claim.limit.kind:
            case "requests":
                return 0  # it was made, however it ended
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
