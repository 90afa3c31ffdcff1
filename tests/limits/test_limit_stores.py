"""What every store of limits does: one suite, in memory and in Redis."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.keys import HandWorld
from kit.redis_server import RedisServer
from limits_kit import InMemory, InRedis, TimedStore, admitted, change, claim, limit, start_well

from xrouter.limits.limit import MICRO, NOW, Change, Limit, ago
from xrouter.limits.memory import MemoryStore
from xrouter.limits.redis_client import open_client
from xrouter.limits.redis_store import RedisStore

STRATEGIES = ("fixed_window", "sliding_window", "token_bucket")
KINDS = [limit(name=strategy, strategy=strategy, amount=9) for strategy in STRATEGIES]


@pytest.fixture(params=["memory", "redis"])
async def timed(request: pytest.FixtureRequest, shared_redis: RedisServer) -> AsyncIterator[TimedStore]:
    if request.param == "memory":
        yield InMemory()
        return
    shared_redis.client().flushall()
    store = await start_well(
        RedisStore(open_client(shared_redis.url), deadline_s=5)
    )  # a busy machine is not what is tested
    yield InRedis(store)
    await store.aclose()


@pytest.fixture(params=STRATEGIES)
def three(request: pytest.FixtureRequest) -> Limit:
    """Three in a second."""
    return limit(strategy=request.param)


async def test_as_much_is_admitted_as_the_limit_says(timed: TimedStore, three: Limit) -> None:
    assert [await admitted(timed.store, [claim(three)]) for _ in range(5)] == [True] * 3 + [False] * 2


async def test_subjects_do_not_share(timed: TimedStore, three: Limit) -> None:
    for subject in ("a", "b"):
        assert [await admitted(timed.store, [claim(three, 3, subject)]) for _ in range(2)] == [True, False]


async def test_remaining_and_reset_tell_how_it_stands(timed: TimedStore) -> None:
    for strategy in ("fixed_window", "sliding_window"):
        one = claim(limit(name=strategy, strategy=strategy))
        decisions = [await timed.store.admit("r", [one]) for _ in range(4)]
        assert [decision.states[0].remaining for decision in decisions] == [2, 1, 0, 0]
        assert all(900_000 < decision.states[0].reset_us <= 1_000_000 for decision in decisions)
        assert [decision.states[0].retry_us > 0 for decision in decisions] == [False, False, False, True]


async def test_a_bucket_tells_when_it_is_full_again(timed: TimedStore) -> None:
    one = claim(limit(strategy="token_bucket", amount=10, window_s=10, burst=4))
    decision = await timed.store.admit("r", [one])
    assert decision.states[0].remaining == 3
    assert 900_000 < decision.states[0].reset_us <= 1_000_000
    decision = await timed.store.admit("r", [replaced_amount(one, 3)])
    assert 3_800_000 < decision.states[0].reset_us <= 4_000_000
    refused = await timed.store.admit("r", [replaced_amount(one, 2)])
    assert 1_800_000 < refused.states[0].retry_us <= 2_000_000


def replaced_amount(one, amount):
    return type(one)(one.limit, one.key, amount)


async def test_a_refused_claim_fits_when_it_was_told_to_come_back(timed: TimedStore, three: Limit) -> None:
    assert await admitted(timed.store, [claim(three, 3)])
    refused = await timed.store.admit("r", [claim(three, 2)])
    assert not refused.admitted
    await timed.pass_s(refused.states[0].retry_us / 1e6 + 0.002)
    assert await admitted(timed.store, [claim(three, 2)])


async def test_a_claim_larger_than_the_limit_never_fits(timed: TimedStore, three: Limit) -> None:
    decision = await timed.store.admit("r", [claim(three, 4)])
    assert (decision.admitted, decision.states[0].retry_us, decision.states[0].remaining) == (False, -1, 3)


async def test_a_burst_is_taken_at_once_and_refills_evenly(timed: TimedStore) -> None:
    bucket = claim(limit(strategy="token_bucket", amount=2, window_s=2, burst=2))  # one a second
    assert [await admitted(timed.store, [bucket]) for _ in range(3)] == [True, True, False]
    await timed.pass_s(1.01)
    assert [await admitted(timed.store, [bucket]) for _ in range(2)] == [True, False]


async def test_all_or_none(timed: TimedStore, three: Limit) -> None:
    """If another limit refuses, nothing of this one is taken, whichever comes first."""
    full = claim(limit(name="full", amount=1))
    assert await admitted(timed.store, [full])
    for order in ([claim(three), full], [full, claim(three)]):
        decision = await timed.store.admit("r", order)
        assert not decision.admitted
        assert [state.fits for state in decision.states] == [one is not full for one in order]
    assert await admitted(timed.store, [claim(three, 3)])


async def test_an_amount_of_nothing_asks_whether_anything_is_left(timed: TimedStore, three: Limit) -> None:
    look = claim(three, 0)
    for _ in range(5):
        assert await admitted(timed.store, [look])
    assert await admitted(timed.store, [claim(three, 3)])
    assert not await admitted(timed.store, [look])


async def test_a_shadow_limit_is_counted_and_refuses_nothing(timed: TimedStore, three: Limit) -> None:
    shadow, real = claim(replace(three, shadow=True)), claim(limit(name="real", amount=100))
    decisions = [await timed.store.admit("r", [shadow, real]) for _ in range(5)]
    assert all(decision.admitted for decision in decisions)
    assert [decision.states[0].fits for decision in decisions] == [True] * 3 + [False] * 2
    assert decisions[-1].states[1].remaining == 95


async def test_a_refused_request_leaves_a_shadow_limit_alone(timed: TimedStore) -> None:
    shadow, real = claim(limit(name="s", shadow=True)), claim(limit(name="real", amount=1))
    decisions = [await timed.store.admit("r", [shadow, real]) for _ in range(3)]
    assert [decision.states[0].remaining for decision in decisions] == [2, 2, 2]


async def test_what_is_given_back_is_free_again(timed: TimedStore, three: Limit) -> None:
    one = claim(three, 3)
    decision = await timed.store.admit("r", [one])
    timed.store.settle([change(one, decision, -2)])
    assert await admitted(timed.store, [claim(three, 2)])
    assert not await admitted(timed.store, [claim(three, 1)])


async def test_real_use_beyond_the_limit_is_waited_for(timed: TimedStore) -> None:
    for strategy in ("fixed_window", "sliding_window"):
        one = claim(limit(name=strategy, strategy=strategy, amount=10), 1)
        decision = await timed.store.admit("r", [one])
        timed.store.settle([change(one, decision, 50)])
        refused = await timed.store.admit("r", [one])
        assert (refused.admitted, refused.states[0].remaining) == (False, 0)
        assert 0 < refused.states[0].retry_us <= 1_000_000


async def test_a_bucket_works_off_its_debt(timed: TimedStore) -> None:
    one = claim(limit(strategy="token_bucket", amount=100, window_s=1, burst=10), 10)
    decision = await timed.store.admit("r", [one])
    timed.store.settle([change(one, decision, 10)])
    refused = await timed.store.admit("r", [claim(one.limit, 5)])
    assert 120_000 < refused.states[0].retry_us <= 150_000
    await timed.pass_s(refused.states[0].retry_us / 1e6 + 0.002)
    assert await admitted(timed.store, [claim(one.limit, 5)])


async def test_a_correction_of_a_window_that_has_passed_changes_nothing(timed: TimedStore) -> None:
    for strategy in ("fixed_window", "sliding_window"):
        one = claim(limit(name=strategy, strategy=strategy), 3)
        old = await timed.store.admit("r", [one])
        await timed.pass_s(1.01)
        assert await admitted(timed.store, [claim(one.limit, 3)])
        timed.store.settle([change(one, old, -3)])
        assert not await admitted(timed.store, [claim(one.limit, 1)])


async def test_a_refusal_applies_what_is_to_happen_otherwise(timed: TimedStore, three: Limit) -> None:
    """Step two of an admission: if it refuses, step one is given back in the same moment; if not, it stays."""
    first, second = claim(three, 3), claim(limit(name="second", amount=1))
    taken = await timed.store.admit("r", [first])
    assert (await timed.store.admit("r", [second], [change(first, taken, -3)])).admitted
    assert not await admitted(timed.store, [claim(three)])
    assert not (await timed.store.admit("r", [second], [change(first, taken, -3)])).admitted
    assert await admitted(timed.store, [claim(three, 3)])


async def test_concurrency_is_held_until_it_is_given_back(timed: TimedStore) -> None:
    slots = claim(limit(kind="concurrency", amount=2, window_s=0))
    decisions = [await timed.store.admit(f"r{n}", [slots]) for n in range(3)]
    assert [decision.admitted for decision in decisions] == [True, True, False]
    assert [decision.states[0].remaining for decision in decisions] == [1, 0, 0]
    for _ in range(2):  # a second time does nothing
        timed.store.settle([change(slots, decisions[0], -1)])
    assert [await admitted(timed.store, [slots], f"s{n}") for n in range(2)] == [True, False]


async def test_a_sliding_window_never_lets_more_through_than_the_limit_in_any_second(timed: TimedStore) -> None:
    sliding = claim(limit(amount=4))
    loop = asyncio.get_running_loop()
    clock = timed.world.monotonic if isinstance(timed, InMemory) else loop.time
    times: list[float] = []  # the latest moments at which each can not yet have been counted
    began = clock()
    while clock() < began + 2.3:
        before = clock()
        if await admitted(timed.store, [sliding]):
            times.append(before)
            assert len([t for t in times if t > clock() - 1.0]) <= 4
        await timed.pass_s(0.011)
    assert len(times) == 12 if isinstance(timed, InMemory) else len(times) <= 12


async def test_a_storm_of_one_process_is_admitted_exactly(timed: TimedStore) -> None:
    wide = [claim(limit(name="w", amount=50, window_s=60)), claim(limit(name="x", amount=70, window_s=60))]
    answers = await asyncio.gather(*(admitted(timed.store, wide) for _ in range(300)))
    assert sum(answers) == 50
    look = await timed.store.admit("r", [claim(wide[1].limit, 0)])
    assert look.states[0].remaining == 20


async def test_settling_comes_before_the_next_admission(timed: TimedStore, three: Limit) -> None:
    """So a client that asks again the moment its answer ends finds what it gave back."""
    for _ in range(20):
        one = claim(three, 3)
        decision = await timed.store.admit("r", [one])
        assert decision.admitted
        timed.store.settle([Change(one.limit, one.key, decision.states[0].mark, -3)])


@pytest.mark.parametrize("strategy", ["fixed_window", "sliding_window"])
async def test_a_use_that_is_told_later_counts_from_when_it_was(timed: TimedStore, strategy: str) -> None:
    """Whether it fits or not; and one that is older than the window counts no more."""
    one = claim(limit(strategy=strategy))
    timed.store.settle([Change(one.limit, one.key, ago(1_000_001), 3)])
    assert await admitted(timed.store, [claim(one.limit, 3)])
    await timed.pass_s(1.01)
    timed.store.settle([Change(one.limit, one.key, ago(500_000), 4)])
    assert not await admitted(timed.store, [one])
    await timed.pass_s(0.51)
    assert await admitted(timed.store, [one])


async def test_a_use_that_is_told_to_a_bucket_is_waited_for(timed: TimedStore) -> None:
    one = claim(limit(strategy="token_bucket"))
    timed.store.settle([Change(one.limit, one.key, NOW, 3)])
    assert not await admitted(timed.store, [one])
    await timed.pass_s(0.35)
    assert await admitted(timed.store, [one])


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 4), st.integers(0, 700_000)), max_size=20))
def test_what_is_drained_from_one_store_stands_alike_in_another(uses: list[tuple[Limit, int, int]]) -> None:
    world = HandWorld()
    one, other, reference = MemoryStore(world), MemoryStore(world), MemoryStore(world)
    for kind, amount, passed_us in uses:
        for store in (one, reference):
            store.settle([Change(kind, claim(kind).key, NOW, amount)])
        world.advance(passed_us / MICRO)
    other.settle(one.drain())
    assert len(one) == 0
    for kind in KINDS:
        looks = [asyncio.run(store.admit("look", [claim(kind, 0)])).states[0] for store in (other, reference)]
        assert looks[0].remaining == looks[1].remaining or kind.strategy == "token_bucket"
        assert abs(looks[0].reset_us - looks[1].reset_us) <= kind.window_us // kind.amount
