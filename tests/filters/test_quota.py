"""The filter over a real ledger; what stands inside of it is scripted, and says what the ledger held at each moment."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kit.cancel import cancel_at_every_await
from kit.keys import HandWorld
from kit.money import ACCOUNT, KEY, Money, grant, money

from xrouter.catalog import Catalog
from xrouter.config.settings import ModelSettings, Price, Rates, RouteSettings, Settings, UpstreamSettings
from xrouter.context import ClientAbort, Endpoint, Estimate, Outcome, Principal, RequestContext, Route, Target
from xrouter.errors import PaymentRequired, StoreUnavailable, UpstreamError
from xrouter.events import Text, Usage
from xrouter.filters.quota import Quota
from xrouter.ledger.receipts import read_details
from xrouter.surfaces.openai import read_call
from xrouter.wire import encode_json

IN, OUT = 1_000_000, 2_000_000  # nanocredits a token
CHEAP, DEAR, FREE = Target("up", "m", "a/cheap"), Target("up", "d", "a/dear"), Target("up", "f", "a/free")
INPUT = 10
Send = Callable[[Any], Awaitable[None]]
Inner = Callable[[RequestContext, Send], Awaitable[None]]


def settings() -> Settings:
    def model(name: str, price: Any) -> ModelSettings:
        return ModelSettings(routes=(RouteSettings(upstream="up", model=name),), price=price, max_output=100)

    return Settings(
        upstreams={"up": UpstreamSettings(provider="openai", base_url="http://127.0.0.1:1/v1")},
        models={
            "a/cheap": model("m", Price(input=Decimal(1), output=Decimal(2), cost=Rates(input=Decimal(1)))),
            "a/dear": model("d", Price(input=Decimal(10), output=Decimal(20), image=Decimal(1))),
            "a/free": model("f", "free"),
        },
        filters=(),
    )


@dataclass
class Bench:
    """Requests through one quota filter."""

    books: Money
    world: HandWorld
    quota: Quota | None = None
    number: int = 0
    sent: list[dict[str, Any]] = field(default_factory=list)
    watch: Callable[[dict[str, Any]], None] | None = None  # sees each message at the moment that it leaves

    def build(self, inner: Inner, **config: Any) -> Quota:
        async def app(scope: Any, receive: Any, send: Send) -> None:
            await inner(scope["xrouter"], send)

        loaded = settings()
        services = SimpleNamespace(
            settings=loaded,
            world=self.world,
            catalog=Catalog(loaded),
            ledger=self.books.ledger,
            store=self.books.engine,
        )
        return Quota(app, Quota.Config(**config), services)  # type: ignore[arg-type]

    async def request(
        self, inner: Inner, *, targets: tuple[Target, ...] = (CHEAP,), quota: Quota | None = None, **fields: Any
    ) -> RequestContext:
        """One request; `fields` are the body's. Without `max_tokens` its hold is elastic."""
        self.number += 1
        config = {name: fields.pop(name) for name in ("client_abort", "on_store_failure") if name in fields}
        quota = quota or self.build(inner, **config)
        kind = "completions" if "prompt" in fields else "chat"
        asked = {} if kind == "completions" else {"messages": [{"role": "user", "content": "?"}]}
        body = {"model": targets[0].public_model, **asked, **fields}
        ctx = RequestContext("r", f"g{self.number}", Endpoint(kind, "POST", inference=True), 0.0, self.world.now())
        ctx.principal = Principal(key_id=KEY, account=ACCOUNT)
        ctx.call = read_call(kind, encode_json(body))
        ctx.route = Route(body["model"], targets)
        ctx.estimate = Estimate(INPUT, ctx.call.request.output_cap(), lambda text: len(text.split()))

        async def send(message: Any) -> None:
            self.sent.append(message)
            if self.watch is not None:
                self.watch(message)

        await quota({"xrouter": ctx, "headers": [(b"user-agent", b"tests")]}, None, send)  # type: ignore[arg-type]
        return ctx

    def receipt(self, generation: str = "g1") -> dict[str, Any]:
        names = "rule, outcome, model, charged_nano, cost_nano, overrun_nano, hold_nano, output_tokens, usage_source"
        rows = self.books.rows(f"SELECT {names} FROM generations WHERE id = '{generation}'")
        assert len(rows) == 1, f"{generation} has {len(rows)} receipts"
        return dict(zip(names.split(", "), rows[0], strict=True))

    def no_receipt(self, generation: str = "g1") -> None:
        assert self.books.rows(f"SELECT 1 FROM generations WHERE id = '{generation}'") == []

    async def available(self) -> int:
        return (await self.books.account()).available_nano


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    world = HandWorld()
    async with money(tmp_path, world) as books:
        await books.ledger.transfer(grant(10**9))
        yield Bench(books, world)


START = {"type": "http.response.start", "status": 200, "headers": []}


def chunk(words: int) -> dict[str, Any]:
    text = "w " * words
    return {"type": "http.response.body", "body": text.encode(), "more_body": True, "xrouter.events": (Text(text),)}


LAST = {"type": "http.response.body", "body": b"", "more_body": False, "xrouter.events": ()}


def stream(*chunks: int, usage: Usage | None = None, target: Target = CHEAP, end: Any = "complete") -> Inner:
    """An answer in chunks of so many words; dispatch's order: the outcome, then the last message."""

    async def inner(ctx: RequestContext, send: Send) -> None:
        await send(dict(START))
        for words in chunks:
            await send(chunk(words))
        counted = Usage(INPUT, sum(chunks), source="counted") if chunks else None
        ctx.outcome = Outcome(end=end, usage=usage or counted, target=target)
        await send(dict(LAST))

    return inner


async def test_the_charge_is_durable_before_the_last_byte(bench: Bench) -> None:
    """Promise 3. Fails if the filter forwards the last message and settles then."""
    seen: list[tuple[bool, int]] = []
    bench.watch = lambda message: seen.append(
        (message.get("more_body", True), len(bench.books.rows("SELECT 1 FROM generations")))
    )
    await bench.request(stream(3, 4, usage=Usage(INPUT, 7)))
    assert seen == [(True, 0), (True, 0), (True, 0), (False, 1)]
    receipt = bench.receipt()
    assert receipt["charged_nano"] == receipt["cost_nano"] == INPUT * IN + 7 * OUT
    assert (receipt["rule"], receipt["usage_source"], receipt["overrun_nano"]) == ("complete", "reported", 0)
    assert await bench.available() == 10**9 - receipt["charged_nano"]


async def test_an_answer_that_is_not_streamed_is_charged_before_its_head(bench: Bench) -> None:
    async def inner(ctx: RequestContext, send: Send) -> None:
        ctx.outcome = Outcome(end="complete", usage=Usage(INPUT, 7), target=CHEAP)
        await send(dict(START))
        await send(dict(LAST))

    seen: list[int] = []
    bench.watch = lambda message: seen.append(len(bench.books.rows("SELECT 1 FROM generations")))
    await bench.request(inner)
    assert seen == [1, 1]


async def test_what_cannot_be_paid_never_goes_on(bench: Bench) -> None:
    async def inner(ctx: RequestContext, send: Send) -> None:
        raise AssertionError("it went on")

    with pytest.raises(PaymentRequired):
        await bench.request(inner, max_tokens=500)  # 10 × 1 + 500 × 2 of 1000 million
    with pytest.raises(PaymentRequired):
        await bench.request(inner, max_tokens=100, n=5)  # every choice is paid
    for prompts in ({"prompt": ["?"] * 5}, {"prompt": ["?"] * 2, "n": 3}, {"prompt": "?", "best_of": 5}):
        with pytest.raises(PaymentRequired):  # of every prompt; the first two fail where prompts are not counted
            await bench.request(inner, max_tokens=100, **prompts)
    assert bench.books.rows("SELECT 1 FROM holds") == []


async def test_the_dearest_target_is_held_and_the_one_that_served_is_charged(bench: Bench) -> None:
    held: list[int] = []

    async def inner(ctx: RequestContext, send: Send) -> None:
        held.append((await bench.books.account()).held_nano)
        await stream(5, usage=Usage(INPUT, 5))(ctx, send)

    ctx = await bench.request(inner, targets=(CHEAP, DEAR), max_tokens=10)
    assert held == [10 * INPUT * IN + 10 * 10 * OUT]
    assert ctx.quote.cost(Usage(INPUT, 5), CHEAP) == bench.receipt()["charged_nano"] == INPUT * IN + 5 * OUT
    assert bench.receipt()["model"] == "a/cheap"


async def test_images_and_the_providers_own_price_are_counted(bench: Bench) -> None:
    await bench.books.ledger.transfer(grant(10**10))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "?"}, picture, picture]}]
    await bench.request(stream(1, target=DEAR), targets=(DEAR,), messages=messages, max_tokens=5)
    assert bench.receipt()["charged_nano"] == 10 * INPUT * IN + 10 * OUT + 2 * 10**9
    await bench.request(stream(4), max_tokens=5)
    (provider_cost,) = bench.books.rows("SELECT provider_cost_nano FROM generations WHERE id = 'g2'")[0]
    assert provider_cost == INPUT * IN


async def test_a_free_model_needs_no_credits_and_leaves_a_receipt(bench: Bench) -> None:
    await bench.request(stream(5, target=FREE), targets=(FREE,))
    assert bench.receipt()["charged_nano"] == 0
    assert bench.books.rows("SELECT 1 FROM holds") == []


async def test_texts_from_outside_never_keep_a_charge_from_being_made(bench: Bench) -> None:
    """Lone surrogates cannot be written as UTF-8, and a novel has no place in a receipt."""
    odd = "\ud800\x00\n" + "я" * 10_000

    async def inner(ctx: RequestContext, send: Send) -> None:
        usage = Usage(INPUT, 1)
        ctx.outcome = Outcome("complete", usage, CHEAP, native_finish_reason=odd, upstream_id=odd, upstream_model=odd)
        await send(dict(START))

    await bench.request(inner, user="я" * 5_000, session_id="s" * 5_000)
    (details,) = bench.books.rows("SELECT details FROM generations")[0]
    assert len(details) < 10_000
    assert read_details(details).user == "я" * 512
    assert bench.receipt()["charged_nano"] == INPUT * IN + OUT


async def test_f38_a_filter_inside_that_fails_leaves_nothing_held(bench: Bench) -> None:
    async def inner(ctx: RequestContext, send: Send) -> None:
        raise RuntimeError("a plugin")

    with pytest.raises(RuntimeError, match="a plugin"):
        await bench.request(inner)
    assert await bench.books.holds() == {"g1": "released"}
    bench.no_receipt()


async def test_f38_one_that_fails_after_a_part_was_sent_leaves_that_part_charged(bench: Bench) -> None:
    async def inner(ctx: RequestContext, send: Send) -> None:
        await send(dict(START))
        await send(chunk(6))
        raise RuntimeError("a plugin")

    with pytest.raises(RuntimeError):
        await bench.request(inner)
    receipt = bench.receipt()
    assert (receipt["rule"], receipt["charged_nano"]) == ("upstream_error:delivered", INPUT * IN + 6 * OUT)


async def test_f38_one_that_swallows_its_cancellation_is_settled_once(bench: Bench) -> None:
    async def inner(ctx: RequestContext, send: Send) -> None:
        try:
            reached.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await stream(2)(ctx, send)

    reached = asyncio.Event()
    task = asyncio.create_task(bench.request(inner))
    await reached.wait()
    task.cancel()
    await task
    assert bench.receipt()["charged_nano"] == INPUT * IN + 2 * OUT


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
async def test_f08_cancelled_at_every_await_it_ends_once(bench: Bench, late: bool) -> None:
    """Incident I-22. Fails without the `finally` around the inner app, and without the ledger's owned tasks."""

    async def inner(ctx: RequestContext, send: Send) -> None:
        async def slowly(message: Any) -> None:
            await asyncio.sleep(0)
            await send(message)

        await stream(1, 1, 1, usage=Usage(INPUT, 3))(ctx, slowly)

    assert await cancel_at_every_await(lambda: bench.request(inner), late=late) >= 7  # hold, five messages, settlement
    await bench.books.ledger.aclose()
    states = set((await bench.books.holds()).values())
    assert states == {"settled", "released"}
    assert (await bench.books.account()).held_nano == 0


POLICIES: list[tuple[ClientAbort, Usage | None, int, str]] = [
    ("bill_delivered", Usage(INPUT, 4, source="counted"), INPUT * IN + 4 * OUT, "client_abort:bill_delivered"),
    ("bill_delivered", Usage(INPUT, 4), INPUT * IN + 4 * OUT, "client_abort:bill_delivered"),
    ("drain_and_bill", Usage(INPUT, 9), INPUT * IN + 9 * OUT, "client_abort:drain_and_bill"),
    ("cancel", Usage(INPUT, 4, source="counted"), 0, "client_abort:cancel"),
    ("cancel", Usage(INPUT, 4), INPUT * IN + 4 * OUT, "client_abort:cancel"),
    ("bill_delivered", None, 0, "nothing_generated"),
    ("drain_and_bill", None, 0, "nothing_generated"),
    ("cancel", None, 0, "nothing_generated"),
]


@pytest.mark.parametrize(("policy", "usage", "charge", "rule"), POLICIES)
async def test_f08_who_leaves_is_charged_by_the_policy(
    bench: Bench, policy: ClientAbort, usage: Usage | None, charge: int, rule: str
) -> None:
    async def inner(ctx: RequestContext, send: Send) -> None:
        await send(dict(START))
        if usage is not None:
            await send(chunk(4))
        ctx.outcome = Outcome(end="client_abort", usage=usage, target=CHEAP)

    ctx = await bench.request(inner, client_abort=policy)
    assert ctx.client_abort == policy
    receipt = bench.receipt()
    assert (receipt["rule"], receipt["charged_nano"], receipt["outcome"]) == (rule, charge, "client_abort")


@pytest.mark.parametrize(
    ("end", "usage", "charge", "rule"),
    [
        ("upstream_error", None, 0, "nothing_generated"),
        ("upstream_error", Usage(INPUT, 3, source="counted"), INPUT * IN + 3 * OUT, "upstream_error:delivered"),
        ("shutdown", Usage(INPUT, 3, source="counted"), INPUT * IN + 3 * OUT, "shutdown:delivered"),
        ("shutdown", None, 0, "nothing_generated"),
    ],
)
async def test_f03_a_stream_cut_by_the_upstream_is_charged_for_what_was_delivered(
    bench: Bench, end: Any, usage: Usage | None, charge: int, rule: str
) -> None:
    async def inner(ctx: RequestContext, send: Send) -> None:
        await send(dict(START))
        if usage is not None:
            await send(chunk(3))
        ctx.outcome = Outcome(end=end, usage=usage, target=CHEAP)
        await send(dict(LAST))

    await bench.request(inner)
    assert (bench.receipt()["rule"], bench.receipt()["charged_nano"]) == (rule, charge)


async def test_f02_an_upstream_that_fails_before_anything_was_sent_costs_nothing(bench: Bench) -> None:
    async def inner(ctx: RequestContext, send: Send) -> None:
        error = UpstreamError()
        ctx.outcome = Outcome(end="upstream_error", usage=None, target=CHEAP, error=error)
        raise error

    with pytest.raises(UpstreamError):
        await bench.request(inner)
    assert (bench.receipt()["charged_nano"], bench.receipt()["rule"]) == (0, "nothing_generated")
    assert await bench.books.holds() == {"g1": "released"}
    assert await bench.available() == 10**9


@pytest.mark.parametrize("usage", [Usage(-1, 5), Usage(5, -1), Usage(5, 2**63), Usage(18446744073686646784, 0)])
async def test_f07_counts_that_cannot_be_right_are_counted_here_instead(bench: Bench, usage: Usage) -> None:
    """Incident I-11. The charge never exceeds what a count of the delivered text gives."""
    await bench.request(stream(6, usage=usage))
    receipt = bench.receipt()
    assert (receipt["rule"], receipt["usage_source"]) == ("recounted", "counted")
    assert receipt["charged_nano"] == INPUT * IN + 6 * OUT


async def test_f07_an_explicit_zero_is_zero(bench: Bench) -> None:
    """Incident I-21 (#37992): an explicit zero was taken as missing."""
    await bench.request(stream(6, usage=Usage(0, 0)))
    assert (bench.receipt()["charged_nano"], bench.receipt()["output_tokens"]) == (0, 0)


async def test_a_hold_without_max_tokens_follows_recent_answers(bench: Bench) -> None:
    held: list[int] = []

    async def inner(ctx: RequestContext, send: Send) -> None:
        held.append((await bench.books.account()).held_nano)
        ctx.outcome = Outcome(end="complete", usage=Usage(INPUT, 70), target=CHEAP)
        await send(dict(START))

    quota = bench.build(inner)
    for _ in range(2):
        await bench.request(inner, quota=quota)
    assert held == [INPUT * IN + 100 * OUT, INPUT * IN + 70 * OUT]  # first the model's maximum, then what it said last


async def test_what_the_balance_affords_is_the_upstreams_cap(tmp_path: Path) -> None:
    """Promise 5. The model's own maximum is 100 tokens; the balance affords 30."""
    async with money(tmp_path, HandWorld()) as books:
        await books.ledger.transfer(grant(INPUT * IN + 30 * OUT + 1))
        bench = Bench(books, HandWorld())
        ctx = await bench.request(stream(30))
        assert ctx.call.request.output_cap() == 30
        assert (ctx.call.body["max_tokens"], ctx.call.raw) == (30, None)
        assert bench.receipt()["charged_nano"] == INPUT * IN + 30 * OUT
        with pytest.raises(PaymentRequired):
            await bench.request(stream(1))


async def test_a_rich_request_is_passed_on_as_it_came(bench: Bench) -> None:
    ctx = await bench.request(stream(1))
    assert ctx.call.raw is not None
    assert ctx.call.request.output_cap() is None


async def test_a_hold_grows_while_the_answer_streams(bench: Bench) -> None:
    held: list[int] = []

    async def short(ctx: RequestContext, send: Send) -> None:
        ctx.outcome = Outcome(end="complete", usage=Usage(INPUT, 10), target=CHEAP)
        await send(dict(START))

    async def long(ctx: RequestContext, send: Send) -> None:
        if ctx.generation_id == "g1":
            return await short(ctx, send)
        await send(dict(START))
        for _ in range(10):
            await send(chunk(20))
            held.append((await bench.books.account()).held_nano)
        ctx.outcome = Outcome(end="complete", usage=Usage(INPUT, 200), target=CHEAP)
        await send(dict(LAST))
        return None

    quota = bench.build(long)
    await bench.request(long, quota=quota)
    await bench.request(long, quota=quota)
    first = INPUT * IN + 64 * OUT  # the least that is held for an answer
    assert held[:3] == [first] * 3
    assert held[3] == INPUT * IN + 160 * OUT
    assert held == sorted(held)
    assert (bench.receipt("g2")["charged_nano"], bench.receipt("g2")["overrun_nano"]) == (INPUT * IN + 200 * OUT, 0)


async def test_a_stream_that_uses_up_the_credits_ends_with_402_and_is_charged_for_what_was_delivered(
    tmp_path: Path,
) -> None:
    """As dispatch ends it: what `send` raised is the outcome's error, and the last event is sent by the same `send`."""
    async with money(tmp_path, HandWorld()) as books:
        bench = Bench(books, HandWorld())
        await books.ledger.transfer(grant(INPUT * IN + 50 * OUT))
        delivered = 0

        async def inner(ctx: RequestContext, send: Send) -> None:
            nonlocal delivered
            try:
                await send(dict(START))
                for _ in range(100):
                    await send(chunk(7))
                    delivered += 7
            except PaymentRequired as error:
                usage = Usage(INPUT, delivered, source="counted")
                ctx.outcome = Outcome(end="upstream_error", usage=usage, target=CHEAP, error=error)
                await send(dict(LAST))

        await bench.request(inner)
        assert delivered == 49
        receipt = bench.receipt()
        assert (receipt["rule"], receipt["charged_nano"]) == ("credits_exhausted", INPUT * IN + 49 * OUT)
        assert (await books.account()).available_nano == OUT


async def test_f13_without_the_store_no_priced_request_reaches_an_upstream(bench: Bench) -> None:
    """The store is locked by another process for longer than anybody waits. Fails if `deny` goes on without a hold."""

    async def inner(ctx: RequestContext, send: Send) -> None:
        raise AssertionError("it went on")

    with locked(bench.books.path), pytest.raises(StoreUnavailable):
        await bench.request(inner)
    await bench.books.ledger.catch_up()
    assert await bench.available() == 10**9


async def test_f13_allow_lets_them_through_and_charges_them_later(bench: Bench) -> None:
    with locked(bench.books.path):
        request = asyncio.create_task(bench.request(stream(3), on_store_failure="allow"))
        await bench.world.asleep.wait()  # settling waits for its next try
        for _ in range(3):
            bench.world.advance(2)
            await asyncio.sleep(1.2)
        await request
    await bench.books.ledger.recover_journals()
    receipt = bench.receipt()
    assert (receipt["charged_nano"], receipt["overrun_nano"]) == (INPUT * IN + 3 * OUT, INPUT * IN + 3 * OUT)


async def test_f34_more_than_64_bits_is_refused_before_anything_is_held(bench: Bench) -> None:
    most = {"max_tokens": 2**31 - 1}
    for fields in (most, {**most, "n": 128}, {**most, "n": 128, "prompt": ["?"] * 2048}):
        with pytest.raises(PaymentRequired):
            await bench.request(stream(1), **fields)
    assert bench.books.rows("SELECT 1 FROM holds") == []


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process is writing for as long as the block lasts."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


def test_the_filter_stands_where_it_must() -> None:
    assert Quota.needs == {"principal", "call", "route", "estimate"}
    assert Quota.provides == {"quote"}
    assert replace(Quota.Config(), client_abort="cancel").on_store_failure == "deny"
