"""Random walks: the windows in memory against what a limit means, and the script in Redis against the windows in memory."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.keys import HandWorld
from kit.redis_server import RedisServer
from limits_kit import claim, limit

from xrouter.limits.limit import MICRO, Change, Claim, Limit, State, ago
from xrouter.limits.memory import MemoryStore
from xrouter.limits.redis_client import open_client
from xrouter.limits.redis_link import _SCRIPT
from xrouter.limits.redis_store import RedisStore, _decode

WALK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FUTURE_S = 4_000_000_000.0  # 2096: no key of a simulated walk expires by Redis' own clock


@dataclass
class Log:
    """The meaning of a limit, as a list of all uses."""

    uses: list[tuple[int, int]] = field(default_factory=list)

    def within(self, now_us: int, window_us: int) -> int:
        return sum(amount for at, amount in self.uses if at > now_us - window_us)


steps = st.lists(
    st.tuples(
        st.integers(0, 400_000) | st.sampled_from([0, 500_000, 1_000_000]), st.integers(1, 7)
    ),  # time that passes, then what is asked for
    max_size=60,
)


@WALK
@given(steps=steps, amount=st.integers(1, 12))
def test_a_sliding_window_is_exact_to_a_sixtieth(steps: list[tuple[int, int]], amount: int) -> None:
    """Never more than the limit in any window; refused only if a window longer by a 60th would hold too much."""
    sliding, log, now_us = limit(amount=amount), Log(), 0
    world = HandWorld()
    store = MemoryStore(world)
    for passed_us, wanted in steps:
        now_us += passed_us
        world.elapsed_s = (now_us + 0.5) / MICRO
        if asyncio.run(store.admit("r", [claim(sliding, wanted)])).admitted:
            log.uses.append((now_us, wanted))
            assert log.within(now_us, sliding.window_us) <= amount
        else:
            assert log.within(now_us, sliding.window_us * 61 // 60 + 1) + wanted > amount


@WALK
@given(steps=steps, amount=st.integers(1, 12))
def test_a_fixed_window_begins_with_its_first_use(steps: list[tuple[int, int]], amount: int) -> None:
    fixed, now_us, start_us, used = limit(amount=amount, strategy="fixed_window"), 0, None, 0
    world = HandWorld()
    store = MemoryStore(world)
    for passed_us, wanted in steps:
        now_us += passed_us
        world.elapsed_s = (now_us + 0.5) / MICRO
        if start_us is not None and now_us >= start_us + fixed.window_us:
            start_us, used = None, 0
        fits = used + wanted <= amount
        assert asyncio.run(store.admit("r", [claim(fixed, wanted)])).admitted == fits
        if fits:
            start_us, used = now_us if start_us is None else start_us, used + wanted


@WALK
@given(steps=steps, amount=st.integers(1, 12), burst=st.integers(1, 12))
def test_a_bucket_refills_evenly(steps: list[tuple[int, int]], amount: int, burst: int) -> None:
    """Held against a level in real numbers, with the microsecond a use that whole ones may be off."""
    bucket = limit(amount=amount, burst=burst, strategy="token_bucket")
    world, level = HandWorld(), float(burst)
    store = MemoryStore(world)
    now_us, uses = 0, 0
    for passed_us, wanted in steps:
        now_us += passed_us
        world.elapsed_s = (now_us + 0.5) / MICRO
        level = min(burst, level + passed_us * amount / MICRO)
        doubt = (uses + 1) * 2 * amount / MICRO
        admitted = asyncio.run(store.admit("r", [claim(bucket, wanted)])).admitted
        if admitted:
            assert wanted <= level + doubt
            level, uses = level - wanted, uses + 1
        else:
            assert wanted > level - doubt


@WALK
@given(
    amounts=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    asked=st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), max_size=20),
)
def test_a_refused_request_changes_nothing(amounts: list[int], asked: list[list[int]]) -> None:
    limits = [limit(name=f"l{n}", amount=amount, window_s=60) for n, amount in enumerate(amounts)]
    store = MemoryStore(HandWorld())
    left = list(amounts)
    for wanted in asked:
        decision = asyncio.run(store.admit("r", [claim(*pair) for pair in zip(limits, wanted, strict=False)]))
        fits = [max(want, 1) <= room for want, room in zip(wanted, left, strict=False)]
        assert decision.admitted == all(fits)
        if decision.admitted:
            left = [room - want for want, room in zip(wanted, left, strict=False)]
        looks = asyncio.run(store.admit("look", [claim(one, 0) for one in limits]))
        assert [state.remaining for state in looks.states] == left


def test_memory_is_bounded_and_expired_windows_go() -> None:
    world = HandWorld()
    store = MemoryStore(world, most_windows=100)
    one = limit()
    for number in range(1000):
        asyncio.run(store.admit("r", [claim(one, 1, f"subject {number}")]))
        assert len(store) <= 101
    world.advance(2)
    for _ in range(101 + 16):
        asyncio.run(store.admit("r", [claim(one, 1, "the same")]))
    assert len(store) == 1


class Script:
    """limits.lua on a clock of the test's: its one line that asks Redis for the time reads the last argument instead."""

    def __init__(self, server: RedisServer) -> None:
        asks = "local time = redis.call('TIME')"
        assert _SCRIPT.count(asks) == 1
        script = _SCRIPT.replace(asks, "local time = {0, ARGV[#ARGV]}")
        self.client = server.client()
        self._run = self.client.register_script(script)
        self._store = RedisStore(open_client(server.url), lease_s=1e8)  # only to encode

    def run(self, now_us: int, lease: str, claims: list[Claim], changes: list[Change]) -> str:
        keys, argument = self._store._encode(lease, claims, changes)
        reply: str = self._run(keys=keys, args=[argument, now_us])
        return reply


@pytest.fixture(scope="module")
def script(shared_redis: RedisServer) -> Script:
    return Script(shared_redis)


KINDS = (
    limit(name="f", amount=9, strategy="fixed_window"),
    limit(name="s", amount=9),
    limit(name="t", amount=9, burst=4, strategy="token_bucket"),
    limit(name="c", amount=3, kind="concurrency", window_s=0),
    limit(name="x", amount=5, strategy="sliding_window", shadow=True),
)
wanted = st.tuples(st.sampled_from(KINDS), st.integers(0, 6)).map(lambda pair: one_slot(*pair))


def one_slot(kind: Limit, amount: int) -> Claim:
    return claim(kind, min(amount, 1) if kind.kind == "concurrency" else amount)


moves = st.lists(
    st.tuples(
        st.integers(0, 500_000) | st.sampled_from([0, 500_000, 1_000_000]),
        st.lists(wanted, min_size=1, max_size=4, unique_by=lambda one: one.key),
        st.one_of(st.none(), st.tuples(st.integers(0, 30), st.integers(-6, 6))),
        st.booleans(),
        st.one_of(st.none(), st.tuples(st.sampled_from(KINDS[:3]), st.integers(1, 6), st.integers(0, 1_100_000))),
    ),
    max_size=25,
)


@WALK
@given(moves=moves)
def test_the_script_does_what_memory_does(script: Script, moves: list[Any]) -> None:
    """Every step on the same clock: claims, corrections on their own, changes that only a refusal applies, and uses of the
    past that come to be known.
    """
    script.client.flushall()
    world = HandWorld()
    store = MemoryStore(world)
    held: list[tuple[Claim, State, State]] = []
    now_us = int(FUTURE_S * MICRO)
    for number, (passed_us, claims, correction, otherwise, past) in enumerate(moves):
        now_us += passed_us
        world.elapsed_s = (now_us + 0.5) / MICRO
        if past is not None:
            told_late = [Change(past[0], claim(past[0]).key, ago(past[2]), past[1])]
            store.settle(told_late)
            script.run(now_us, "", [], told_late)
        mine: list[Change] = []
        theirs: list[Change] = []
        if correction is not None and correction[0] < len(held):
            of, memory_state, redis_state = held[correction[0]]
            delta = -1 if of.limit.kind == "concurrency" else correction[1]
            mine = [Change(of.limit, of.key, memory_state.mark, delta)]
            theirs = [Change(of.limit, of.key, redis_state.mark, delta)]
            if not otherwise:
                store.settle(mine)
                script.run(now_us, "", [], theirs)
                mine, theirs = [], []
        lease = f"r{number}"
        decision = asyncio.run(store.admit(lease, claims, mine))
        same, replaced = _decode(lease, claims, script.run(now_us, lease, claims, theirs).encode())
        assert not replaced
        assert same.admitted == decision.admitted
        for in_memory, in_redis in zip(decision.states, same.states, strict=True):
            assert told(in_redis) == told(in_memory)
        if decision.admitted:
            held += [
                taken
                for taken in zip(claims, decision.states, same.states, strict=True)
                if taken[0].amount and taken[1].fits
            ]


def told(state: State) -> tuple[bool, int, int, int]:
    """All but the mark, which of an empty window may be anything."""
    return state.fits, state.remaining, state.reset_us, state.retry_us
