import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from kit.cancel import cancel_at_every_await
from kit.keys import HandWorld

from xrouter.catalog import Catalog
from xrouter.config.settings import FilterEntry, ModelSettings, Price, RouteSettings, Server, Settings, Tier
from xrouter.context import ContractError, Endpoint, Outcome, Principal, RequestContext, Route, Target
from xrouter.errors import BadRequest, RateLimited, StoreUnavailable
from xrouter.events import Usage
from xrouter.filters.rate_limit import RateLimit
from xrouter.filters.token_count import TokenCount
from xrouter.ledger.credits_left import NANO, CreditsLeft
from xrouter.limits.limit import Decision
from xrouter.limits.memory import MemoryStore
from xrouter.limits.rules import LimitSettings
from xrouter.limits.store import Counters, LimitStore, StoreDown
from xrouter.surfaces.openai import read_call
from xrouter.wire import encode_json

CHAT = Endpoint("chat", "POST", inference=True)
Inner = Callable[[RequestContext], Awaitable[None]]


async def nothing(ctx: RequestContext) -> None:
    """The upstream is not reached."""


def used(input_tokens: int, output_tokens: int) -> Inner:
    async def inner(ctx: RequestContext) -> None:
        ctx.outcome = Outcome("complete", Usage(input_tokens, output_tokens), None)

    return inner


@dataclass
class Drive:
    """The filter, and below it a small body and routing of its own, the real token_count and then `inner`."""

    tiers: dict[str, Tier] = field(default_factory=dict)
    limits: tuple[LimitSettings, ...] = ()
    on_store_failure: str = "local_share"
    store: LimitStore | None = None
    workers: int = 1
    gateways: int = 1
    models: dict[str, ModelSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.world = HandWorld()
        self.store = self.store or MemoryStore(self.world)
        entry = FilterEntry(name="token_count", filter=TokenCount, config=TokenCount.Config(), place="x.yaml:1:1")
        self.settings = Settings(
            upstreams={},
            models=self.models,
            filters=(entry,),
            tiers=self.tiers,
            server=Server(workers=self.workers),
        )
        self.services = SimpleNamespace(
            settings=self.settings,
            world=self.world,
            catalog=Catalog(self.settings),
            limits=self.store,
            ledger=SimpleNamespace(credits_left=CreditsLeft()),
        )
        config = RateLimit.Config(self.on_store_failure, self.limits, gateways=self.gateways)  # type: ignore[arg-type]
        self.token_count = TokenCount(self._innermost, TokenCount.Config(), self.services)
        self.filter = RateLimit(self._body, config, self.services)
        self.inner: Inner = nothing
        self.passed = 0
        self.bodies_read = 0
        self.asked = 0

    async def _body(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        self.bodies_read += 1
        ctx = scope["xrouter"]
        ctx.call = read_call("chat", encode_json(scope["body"]))
        if "/" in ctx.call.models[0]:
            target = Target("up", "m", ctx.call.models[0])
            ctx.route = Route(ctx.call.models[0], (target,))
        await self.token_count(scope, receive, send)

    async def _innermost(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        self.passed += 1
        await self.inner(scope["xrouter"])

    def context(self, *, tier: str | None = None, key: str = "k", account: str = "a", ip: str = "") -> RequestContext:
        self.asked += 1
        ctx = RequestContext("r", f"gen-{self.asked}", CHAT, 0.0, 0.0, client_ip=ip)
        ctx.principal = Principal(key, account, tier=tier)
        self.last = ctx
        return ctx

    async def ask(self, inner: Inner = nothing, *, text: str = "hi", body: Any = None, **who: Any) -> RequestContext:
        ctx = self.context(**who)
        self.inner = inner
        whole = {"model": "m", "messages": [{"role": "user", "content": text}], **(body or {})}
        scope: MutableMapping[str, Any] = {"type": "http", "xrouter": ctx, "body": whole}
        await self.filter(scope, None, None)  # type: ignore[arg-type]
        return ctx

    async def refusal(self, inner: Inner = nothing, **how: Any) -> RateLimited:
        before = self.passed
        with pytest.raises(RateLimited) as caught:
            await self.ask(inner, **how)
        assert self.passed == before
        return caught.value

    async def admitted(self, times: int, inner: Inner = nothing, **how: Any) -> int:
        admitted = 0
        for _ in range(times):
            try:
                await self.ask(inner, **how)
            except RateLimited:
                continue
            admitted += 1
        return admitted


def headers(ctx: RequestContext) -> dict[str, str]:
    names = [name for name, _ in ctx.response_headers]
    assert len(names) == len(set(names)), "a header is there twice"
    return {name.decode(): value.decode() for name, value in ctx.response_headers}


FREE = Tier(requests=("20/minute", "200/day"), tokens=("20000/minute",), concurrency=5)


async def test_a_tier_allows_its_keys_what_it_says() -> None:
    drive = Drive({"free": FREE})
    assert await drive.admitted(25, used(10, 10), tier="free") == 20
    assert await drive.admitted(25, used(10, 10), tier="free", key="other") == 20
    assert await drive.admitted(25, used(10, 10), key="without a tier") == 25


async def test_a_key_without_a_tier_has_the_tier_default() -> None:
    drive = Drive({"default": Tier(requests=("3/minute",)), "pro": Tier(requests=("5/minute",))})
    assert await drive.admitted(9) == 3
    assert await drive.admitted(9, tier="pro", key="p") == 5
    assert await drive.admitted(9, tier="gone", key="q") == 9


async def test_headers_tell_the_nearest_limit() -> None:
    drive = Drive({"free": FREE})
    first = headers(await drive.ask(used(10, 10), tier="free"))
    assert first == {
        "x-ratelimit-limit": "20",
        "x-ratelimit-remaining": "19",
        "x-ratelimit-reset": "60",
        "x-ratelimit-limit-requests": "20",
        "x-ratelimit-remaining-requests": "19",
        "x-ratelimit-reset-requests": "60",
        "x-ratelimit-limit-tokens": "20000",
        "x-ratelimit-remaining-tokens": str(20000 - 9 - 500),
        "x-ratelimit-reset-tokens": "60",
    }
    drive.world.advance(15.5)
    assert headers(await drive.ask(used(10, 10), tier="free"))["x-ratelimit-remaining"] == "18"


async def test_a_refusal_names_its_limit_and_tells_the_second() -> None:
    drive = Drive({"free": FREE})
    await drive.ask(tier="free")
    drive.world.advance(10.2)
    await drive.admitted(19, tier="free")
    drive.world.advance(0.3)
    error = await drive.refusal(tier="free")
    assert error.message == "The limit free.requests.20/minute is reached: 20 requests in 1 minute"
    assert error.retry_after_s == 50  # 49.5, since the first one leaves the window then
    assert error.metadata["limit"] == "free.requests.20/minute"
    assert (error.metadata["allowed"], error.metadata["remaining"]) == (20, 0)
    told = headers(drive.last)
    assert (told["x-ratelimit-limit"], told["x-ratelimit-remaining"]) == ("20", "0")
    drive.world.advance(49.4)
    await drive.refusal(tier="free")
    drive.world.advance(0.2)
    await drive.ask(tier="free")


async def test_a_refused_client_is_told_before_its_body_is_read() -> None:
    drive = Drive({"free": Tier(requests=("1/minute",), tokens=("100/minute",))})
    await drive.ask(tier="free")
    await drive.refusal(tier="free")
    assert drive.bodies_read == 1


async def test_spent_tokens_refuse_before_the_body_is_read() -> None:
    drive = Drive({"free": Tier(tokens=("100/minute",))})
    await drive.ask(used(60, 60), tier="free", body={"max_tokens": 1})
    error = await drive.refusal(tier="free")
    assert error.metadata["limit"] == "free.tokens.100/minute"
    assert (drive.bodies_read, error.retry_after_s) == (1, 60)


async def test_tokens_are_reserved_by_estimate_and_corrected_with_what_was_used() -> None:
    drive = Drive({"free": Tier(tokens=("1000/minute",))})

    async def watch(ctx: RequestContext) -> None:
        assert headers(ctx)["x-ratelimit-remaining-tokens"] == str(1000 - 9 - 300)
        assert (await drive.refusal(tier="free", body={"max_tokens": 800})).metadata["remaining"] == 691
        ctx.outcome = Outcome("complete", Usage(20, 30), None)

    await drive.ask(watch, tier="free", body={"max_tokens": 300})
    told = headers(await drive.ask(used(0, 0), tier="free", body={"max_tokens": 41}))
    assert told["x-ratelimit-remaining-tokens"] == str(1000 - 50 - 9 - 41)


async def test_the_client_s_bound_counts_for_each_choice() -> None:
    drive = Drive({"free": Tier(tokens=("1000/minute",))})
    told = headers(await drive.ask(tier="free", body={"max_tokens": 100, "n": 3}))
    assert told["x-ratelimit-remaining-tokens"] == str(1000 - 9 - 300)


async def test_a_generous_bound_is_cut_to_the_limit_but_a_long_prompt_is_refused() -> None:
    drive = Drive({"free": Tier(tokens=("1000/minute",))})
    assert "x-should-retry" not in headers(await drive.ask(used(10, 10), tier="free", body={"max_tokens": 30_000}))
    error = await drive.refusal(tier="free", text="слово " * 2000)
    assert headers(drive.last)["x-should-retry"] == "false"
    assert "more than the limit free.tokens.1000/minute ever allows: 1000" in error.message
    assert error.retry_after_s == 60


async def test_a_request_refused_for_tokens_takes_nothing_at_all() -> None:
    drive = Drive({"free": Tier(requests=("2/minute",), tokens=("600/minute",), concurrency=1)})
    for _ in range(5):
        error = await drive.refusal(tier="free", text="слово " * 700)
        assert error.metadata["limit"] == "free.tokens.600/minute"
        assert headers(drive.last)["x-ratelimit-remaining-requests"] == "2"
    assert await drive.admitted(3, used(1, 1), tier="free") == 2


@pytest.mark.parametrize("outcome", [None, Outcome("upstream_error", None, None), Outcome("client_abort", None, None)])
async def test_tokens_of_a_request_that_generated_nothing_are_given_back(outcome: Outcome | None) -> None:
    drive = Drive({"free": Tier(requests=("9/minute",), tokens=("600/minute",))})

    async def inner(ctx: RequestContext) -> None:
        if outcome is not None:
            ctx.outcome = outcome
        raise BadRequest

    for _ in range(3):
        with pytest.raises(BadRequest):
            await drive.ask(inner, tier="free")
    told = headers(await drive.ask(tier="free"))
    assert told["x-ratelimit-remaining-requests"] == "5"
    assert told["x-ratelimit-remaining-tokens"] == str(600 - 9 - 500)


async def test_an_aborted_stream_counts_what_was_delivered() -> None:
    drive = Drive({"free": Tier(tokens=("1000/minute",))})

    async def inner(ctx: RequestContext) -> None:
        ctx.outcome = Outcome("client_abort", Usage(9, 41, source="counted"), None)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await drive.ask(inner, tier="free")
    told = headers(await drive.ask(tier="free", body={"max_tokens": 1}))
    assert told["x-ratelimit-remaining-tokens"] == str(1000 - 50 - 10)


async def test_concurrency_counts_requests_under_way() -> None:
    drive = Drive({"free": Tier(concurrency=2)})
    inside, go = asyncio.Semaphore(0), asyncio.Event()

    async def inner(ctx: RequestContext) -> None:
        inside.release()
        await go.wait()

    running = [asyncio.create_task(drive.ask(inner, tier="free")) for _ in range(2)]
    for _ in range(2):
        await inside.acquire()
    error = await drive.refusal(tier="free")
    assert error.message == "The limit free.concurrency is reached: 2 requests at a time"
    assert error.retry_after_s == 1
    running[0].cancel()
    await asyncio.gather(running[0], return_exceptions=True)
    await drive.ask(tier="free")
    go.set()
    await running[1]
    assert await drive.admitted(5, tier="free") == 5


async def test_a_cancellation_anywhere_leaves_no_place_taken() -> None:
    drive = Drive({"free": Tier(requests=("1000/minute",), tokens=("100000/minute",), concurrency=1)})

    async def inner(ctx: RequestContext) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def still_free() -> None:
        await drive.ask(tier="free")

    for late in (False, True):
        assert await cancel_at_every_await(lambda: drive.ask(inner, tier="free"), still_free, late=late) >= 5


async def test_limits_per_account_address_user_and_model() -> None:
    per_account = Drive(limits=(LimitSettings(per="account", requests="2/minute"),))
    assert [await per_account.admitted(3, key=key) for key in ("k", "l")] == [2, 0]
    assert await per_account.admitted(3, account="b") == 2
    per_ip = Drive(limits=(LimitSettings(per="ip", requests="2/minute"),))
    assert [await per_ip.admitted(3, ip=ip) for ip in ("192.0.2.1", "192.0.2.2")] == [2, 2]
    assert [await per_ip.admitted(3, ip=ip) for ip in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")] == [2, 0, 2]
    assert await per_ip.admitted(3, ip="::ffff:192.0.2.1") == 0
    per_user = Drive(limits=(LimitSettings(per="user", requests="2/minute"),))
    assert [await per_user.admitted(3, body={"user": user}) for user in ("u", "v", "u" * 5000, None)] == [2, 2, 2, 2]
    assert await per_user.admitted(3) == 0
    per_model = Drive(limits=(LimitSettings(per="model", requests="2/minute"),))
    assert [await per_model.admitted(3, body={"model": model}) for model in ("a/b", "a/c")] == [2, 2]
    per_tier = Drive({"t": Tier(), "u": Tier()}, limits=(LimitSettings(per="tier", requests="2/minute"),))
    assert [await per_tier.admitted(3, tier=tier, key=tier + "1") for tier in ("t", "u")] == [2, 2]
    assert await per_tier.admitted(3, tier="t", key="t2") == 0
    per_upstream = Drive(limits=(LimitSettings(per="upstream", requests="2/minute"),))
    assert [await per_upstream.admitted(3, body={"model": model}) for model in ("a/b", "a/c")] == [2, 0]


async def test_openrouter_s_rule_for_free_variants() -> None:
    free = (
        LimitSettings(per="key", requests="20/minute", models=("*:free",)),
        LimitSettings(per="key", requests="200/day", models=("*:free",)),
    )
    drive = Drive(limits=free)
    assert await drive.admitted(25, body={"model": "a/b:free"}) == 20
    assert await drive.admitted(25, body={"model": "a/b"}) == 25


async def test_a_limit_per_credit_follows_what_the_key_has_left() -> None:
    rule = LimitSettings(per="key", requests="1/second", per_credit=True, most=500)
    drive = Drive(limits=(rule,))
    left = drive.services.ledger.credits_left
    assert headers(await drive.ask(key="new"))["x-ratelimit-limit"] == "500", "not known yet: the ledger will say it"
    for credits, allowed in ((7, 7), (0, 1), (-3, 1), (10**6, 500)):
        left.note("k", credits * NANO + NANO // 2)
        assert await drive.admitted(510) == allowed
        drive.world.advance(2)
    left.note("k", 7 * NANO)
    await drive.admitted(7)
    left.note("k", 5 * NANO)  # what has been used counts on under the smaller limit
    error = await drive.refusal()
    assert error.message == "The limit key.requests.1/second/credit is reached: 5 requests in 1 second"
    left.note("k", 9 * NANO)
    assert await drive.admitted(5) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"per_credit": True},
        {"most": 5},
        {"per_credit": True, "most": 0},
        {"per_credit": True, "most": 5, "per": "ip"},
        {"per_credit": True, "most": 5, "concurrency": 2},
        {"per_credit": True, "most": 5, "strategy": "token_bucket", "burst": 2},
    ],
)
def test_a_limit_per_credit_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="per_credit"):
        LimitSettings(**{"per": "key", "requests": "1/second", **fields})


async def test_a_limit_for_some_tiers() -> None:
    drive = Drive({"t": Tier(), "u": Tier()}, (LimitSettings(per="key", requests="1/minute", tiers=("t",)),))
    assert [await drive.admitted(3, tier=tier, key=tier) for tier in ("t", "u", None)] == [1, 3, 3]


async def test_a_shadow_limit_is_told_and_refuses_nothing() -> None:
    shadow = LimitSettings(per="key", requests="1/minute", shadow=True, name="tight")
    drive = Drive({"free": Tier(requests=("9/minute",))}, (shadow,))
    assert "x-xrouter-shadow-limit" not in headers(await drive.ask(tier="free"))
    told = headers(await drive.ask(tier="free"))
    assert told["x-xrouter-shadow-limit"] == "tight"
    assert drive.last.shadow_limits == ["tight"]
    assert told["x-ratelimit-limit"] == "9"
    assert drive.store is not None
    assert drive.store.counters.shadow_refused == {"tight": 1}
    assert drive.store.counters.refused == {}


async def test_input_output_and_credits() -> None:
    price = Price(input=Decimal("0.50"), output=Decimal("1.00"), per=1000)
    models = {"a/b": ModelSettings(routes=(RouteSettings(upstream="up", model="m"),), price=price)}
    limit = LimitSettings(
        per="key", input_tokens="1000/minute", output_tokens="500/minute", credits="10/hour", name="all"
    )
    drive = Drive(limits=(limit,), models=models)
    await drive.ask(used(300, 700), body={"model": "a/b"})
    error = await drive.refusal(body={"model": "a/b"})
    assert error.metadata["limit"] == "all.output_tokens"
    drive.world.advance(60)
    for _ in range(9):
        await drive.ask(used(300, 900), body={"model": "a/b", "max_tokens": 10})
        drive.world.advance(60)
    error = await drive.refusal(body={"model": "a/b", "max_tokens": 500})
    assert error.metadata["limit"] == "all.credits"
    assert error.message == "The limit all.credits is reached: 10 credits in 1 hour"
    assert error.metadata["allowed"] == 10


async def test_counters_for_metrics() -> None:
    drive = Drive({"free": Tier(requests=("2/minute",), tokens=("600/minute",))})
    await drive.refusal(tier="free", text="слово " * 700)
    await drive.admitted(5, used(1, 1), tier="free")
    assert drive.store is not None
    counters = drive.store.counters
    assert counters.admitted == 2
    assert counters.refused == {"free.requests.2/minute": 3, "free.tokens.600/minute": 1}


async def test_token_count_may_stand_above() -> None:
    drive = Drive({"free": Tier(tokens=("1000/minute",))})
    ctx = drive.context(tier="free")
    ctx.call = read_call("chat", b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')
    filter_ = RateLimit(drive._innermost, RateLimit.Config(), drive.services)
    await TokenCount(filter_, TokenCount.Config(), drive.services)({"xrouter": ctx}, None, None)  # type: ignore[arg-type]
    assert headers(ctx)["x-ratelimit-remaining-tokens"] == str(1000 - 9 - 500)


async def test_it_is_in_the_chain_once() -> None:
    drive = Drive({"free": Tier(requests=("9/minute",))})
    twice = RateLimit(drive.filter, RateLimit.Config(), drive.services)
    with pytest.raises(ContractError, match="twice"):
        await twice({"xrouter": drive.context(tier="free")}, None, None)  # type: ignore[arg-type]


async def test_a_cancellation_anywhere_leaves_the_share_whole() -> None:
    """Fails if a cancelled step gives back to the store alone."""
    drive, store = away("local_share", Tier(requests=("100/minute",), tokens=("100000/minute",), concurrency=2), 2)

    async def inner(ctx: RequestContext) -> None:
        await asyncio.sleep(0)

    async def share_is_free() -> None:
        store.away = True
        await drive.ask(tier="free")
        store.away = False

    assert await cancel_at_every_await(lambda: drive.ask(inner, tier="free"), share_is_free) == 3


class AwayStore:
    """A store that is away whenever `away`: what on_store_failure does needs no server."""

    def __init__(self, world: HandWorld) -> None:
        self.within = MemoryStore(world)
        self.away = False
        self.returning = False

    @property
    def counters(self) -> Counters:
        return self.within.counters

    @property
    def degraded(self) -> bool:
        return self.away

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    async def admit(self, lease: str, claims: Any, otherwise: Any = ()) -> Decision:
        if self.away:
            raise StoreDown("it is away", sent=False)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.within.settle(otherwise)
            raise
        return await self.within.admit(lease, claims, otherwise)

    def settle(self, changes: Any) -> None:
        if not self.away:
            self.within.settle(changes)


def away(on_store_failure: str, tier: Tier, workers: int = 1, gateways: int = 1) -> tuple[Drive, AwayStore]:
    store = AwayStore(HandWorld())
    tiers = {"free": tier}
    return Drive(tiers, (), on_store_failure, store=store, workers=workers, gateways=gateways), store


async def test_deny_is_503_and_never_429() -> None:
    drive, store = away("deny", FREE)
    store.away = True
    with pytest.raises(StoreUnavailable) as caught:
        await drive.ask(tier="free")
    assert (caught.value.status, caught.value.retry_after_s, drive.passed) == (503, 1, 0)
    assert "rate limits" in caught.value.message
    store.away = False
    await drive.ask(tier="free")


async def test_allow_admits_all() -> None:
    drive, store = away("allow", Tier(requests=("1/minute",), tokens=("600/minute",), concurrency=1))
    store.away = True
    assert await drive.admitted(50, used(100, 100), tier="free") == 50


@pytest.mark.parametrize(("workers", "share"), [(1, 20), (2, 10), (3, 6), (50, 1)])
async def test_f09_local_share_is_the_limit_by_workers(workers: int, share: int) -> None:
    """Fails if the whole limit is local: then the workers together admit it many times."""
    drive, store = away("local_share", Tier(requests=("20/minute",)), workers)
    store.away = True
    assert await drive.admitted(30, tier="free") == share


async def test_f09_local_share_is_divided_by_gateways_too() -> None:
    """Fails if only this gateway's workers divide it."""
    drive, store = away("local_share", Tier(requests=("20/minute",)), 2, 2)
    store.away = True
    assert await drive.admitted(30, tier="free") == 5


def test_there_is_at_least_one_gateway() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RateLimit.Config(gateways=0)


async def test_f09_what_was_admitted_before_the_outage_counts_in_the_share() -> None:
    """Fails without the notes: each outage would then be another share."""
    drive, store = away("local_share", Tier(requests=("20/minute",), tokens=("2000/minute",), concurrency=4), 2)
    assert await drive.admitted(7, used(5, 5), tier="free") == 7
    store.away = True
    assert await drive.admitted(30, used(5, 5), tier="free") == 3


async def test_f09_what_was_refused_before_the_outage_does_not() -> None:
    drive, store = away("local_share", Tier(requests=("20/minute",), tokens=("2000/minute",)), 2)
    for _ in range(9):
        await drive.refusal(tier="free", text="слово " * 3000)
    store.away = True
    assert await drive.admitted(30, used(5, 5), tier="free") == 10


async def test_a_request_that_began_before_the_outage_ends_in_it() -> None:
    drive, store = away("local_share", Tier(tokens=("4000/minute",), concurrency=2), 2)

    async def inner(ctx: RequestContext) -> None:
        store.away = True
        ctx.outcome = Outcome("complete", Usage(5, 5), None)

    await drive.ask(inner, tier="free")
    assert await drive.admitted(3, used(5, 5), tier="free") == 3


async def test_the_store_going_away_between_the_steps_of_one_request() -> None:
    drive, store = away("local_share", Tier(requests=("4/minute",), tokens=("600/minute",), concurrency=4), 2)
    read_body = drive.filter.app

    async def body(scope: Any, receive: Any, send: Any) -> None:
        store.away = True
        await read_body(scope, receive, send)

    drive.filter.app = body
    await drive.ask(used(5, 5), tier="free")
    store.away = False
    drive.filter.app = read_body
    claim_left = await drive.ask(used(5, 5), tier="free")
    assert headers(claim_left)["x-ratelimit-remaining-requests"] == "2"
