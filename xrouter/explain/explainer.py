"""Sending a request down the chain that only looks."""

from dataclasses import replace
from typing import Any, cast

import msgspec

from xrouter import ids
from xrouter.auth import keyformat
from xrouter.auth.keyring import KeyRing, principal_of
from xrouter.chain import filters_around
from xrouter.context import ContractError, Principal, RequestContext, Target
from xrouter.endpoints import Router
from xrouter.errors import BadRequest, InternalError, NotFound, Unauthorized, XRouterError
from xrouter.explain.explanation import Candidate, Explanation, HoldSize, LeftOut, LimitStanding, Refusal, Step
from xrouter.explain.looking import Look, LookingLedger, LookingLimits, Seen
from xrouter.filters.base import Message, Receive, Scope, Send, Services
from xrouter.filters.routing import CANDIDATES
from xrouter.ledger.decisions import decisions
from xrouter.ledger.ledger import Ledger
from xrouter.limits.headers import seconds
from xrouter.limits.limit import MICRO, Claim, State
from xrouter.routing.candidates import Candidates
from xrouter.store.amounts import format_credits
from xrouter.store.keys import KeyStore

_NEVER = -1  # State.retry_us of a claim that can never fit


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request as somebody with `key` (a secret, or the beginning of a hash) would send it."""

    key: str
    body: msgspec.Raw
    path: str = "/api/v1/chat/completions"
    session_id: str | None = None
    client_ip: str = ""


class Explainer:
    """Of one configuration. `start()` before the first question, `aclose()` after the last.

    `look`: answers what the ledger would grant, of an operation that says it is only to look.
    """

    def __init__(self, services: Services, look: Look) -> None:
        self._world = services.world
        self._limits = LookingLimits(services.limits)
        looking = replace(
            services,
            limits=self._limits,
            # What filters ask of one is there.
            ledger=cast(Ledger, LookingLedger(look, self._limits, services.ledger.credits_left)),
            keys=cast(KeyRing, _Keys(services)),
        )
        self._app, self._filters = filters_around(_reached, services.settings.filters, looking)
        self._router = Router()

    async def start(self) -> None:
        for step in self._filters:
            if hasattr(step, "start"):
                await step.start()

    async def aclose(self) -> None:
        for step in reversed(self._filters):
            if hasattr(step, "aclose"):
                await step.aclose()

    async def explain(self, question: Question) -> Explanation:
        """Raises NotFound, MethodNotAllowed and BadRequest where the question itself is none."""
        endpoint, path_args, openrouter = self._router.find(question.path, "POST")
        if not endpoint.inference:
            raise BadRequest("Only requests for a model can be explained", param="path")
        world = self._world
        ctx = RequestContext(
            request_id=ids.uuid4(world),
            generation_id=ids.generation_id(world),
            endpoint=endpoint,
            started=world.monotonic(),
            started_at=world.now(),
            client_ip=question.client_ip,
            session_id=question.session_id,
        )
        ctx.path_args, ctx.openrouter = path_args, openrouter
        seen = self._limits.seen[ctx.generation_id] = Seen()
        try:
            refused = await self._refusal(ctx, question)
        finally:
            del self._limits.seen[ctx.generation_id]
        return _told(ctx, seen, refused)

    async def _refusal(self, ctx: RequestContext, question: Question) -> XRouterError | None:
        body = bytes(question.body)

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self._app(_scope(ctx, question, len(body)), receive, _nobody)
        except ContractError:
            return InternalError()
        except XRouterError as error:
            return error
        return None


class _Keys:
    """The gateway's keys, by secret or by the beginning of a hash: who explains need not know the secret."""

    def __init__(self, services: Services) -> None:
        self._ring = services.keys
        self._store = KeyStore(services.store, services.world)
        self._world = services.world

    async def authenticate(self, secret: str, client_ip: str) -> Principal:
        """Raises what the key ring does."""
        if keyformat.is_wellformed(secret):
            return await self._ring.authenticate(secret, client_ip)
        try:
            key = await self._store.find(secret)
        except (BadRequest, NotFound) as error:
            raise Unauthorized(detail=error.message) from error
        return principal_of(key, self._world.now(), client_ip)


async def _reached(scope: Scope, receive: Receive, send: Send) -> None:
    """The end: here the request would be sent to an upstream."""


async def _nobody(message: Message) -> None:
    """There is no client."""


def _scope(ctx: RequestContext, question: Question, length: int) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": question.path,
        "raw_path": question.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"authorization", b"Bearer " + question.key.encode("latin-1", "replace")),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % length),
        ],
        "client": (question.client_ip, 0),
        "server": None,
        "state": {},
        "xrouter": ctx,
    }


def _told(ctx: RequestContext, seen: Seen, refused: XRouterError | None) -> Explanation:
    steps = [Step(step.filter, step.decision) for step in decisions(ctx)]
    if refused is not None and steps:
        steps[-1] = Step(steps[-1].filter, f"refuses: {refused.message}")
    found: Candidates = ctx.stash.get(CANDIDATES, Candidates(()))
    estimate = ctx.estimate if ctx.provided("estimate") else None
    return Explanation(
        endpoint=ctx.endpoint.name,
        refused=None if refused is None else _refusal(steps, refused),
        chain=steps,
        limits=[_standing(claim, state) for claim, state in seen.limits],
        input_tokens=estimate.input_tokens if estimate else None,
        output_cap=estimate.output_cap if estimate else None,
        hold=_hold(ctx, seen),
        candidates=[_candidate(target, found) for target in found.ordered],
        left_out=[LeftOut(out.upstream, out.model, out.public_model, why.value) for out, why in found.left_out],
        passed_over=[refusal.message for refusal in found.refusals],
        shadows=[_candidate(target, found) for target in found.shadows],
    )


def _refusal(steps: list[Step], refused: XRouterError) -> Refusal:
    body: dict[str, Any] = refused.body()["error"]
    return Refusal(steps[-1].filter if steps else "edge", refused.status, body)


def _candidate(target: Target, found: Candidates) -> Candidate:
    alone = (target.upstream, target.model) in found.left_alone
    return Candidate(target.upstream, target.model, target.public_model, alone)


def _hold(ctx: RequestContext, seen: Seen) -> HoldSize | None:
    if seen.hold is None or seen.wanted_nano is None:
        return None
    estimate, cap = ctx.estimate.output_cap, ctx.call.request.output_cap()
    return HoldSize(
        wanted=format_credits(seen.wanted_nano),
        granted=format_credits(seen.hold.amount_nano),
        payable=format_credits(seen.hold.payable_nano),
        output_cap=None if cap == estimate else cap,
    )


def _standing(claim: Claim, state: State) -> LimitStanding:
    limit = claim.limit
    return LimitStanding(
        name=limit.name,
        per=limit.per,
        kind=limit.kind,
        limit=_amount(limit.amount, limit.kind),
        left=_amount(state.remaining, limit.kind),
        wanted=_amount(claim.amount, limit.kind),
        fits=state.fits,
        reset_s=seconds(state.reset_us),
        retry_s=None if state.fits or state.retry_us == _NEVER else seconds(state.retry_us),
        shadow=limit.shadow,
    )


def _amount(amount: int, kind: str) -> int | str:
    """Credits are counted in millionths, and told as decimals."""
    return format_credits(amount * (10**9 // MICRO)) if kind == "credits" else amount
