"""Numbers that choose: shares as the weights say, conversations that stay, and no process that draws otherwise."""

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from kit.seeded import SeededWorld

from xrouter.context import Endpoint, Principal, RequestContext
from xrouter.routing.chance import by_chance, by_session, picked, race, seed_of, session_of
from xrouter.surfaces.openai import read_call
from xrouter.wire import encode_json

MANY = 6000


@dataclass(frozen=True)
class Runner:
    name: str
    weight: int

    @property
    def seed(self) -> int:
        return seed_of(self.name)


THREE = [Runner("a", 5), Runner("b", 3), Runner("c", 2)]


def shares(firsts: list[str]) -> dict[str, float]:
    return {name: count / len(firsts) for name, count in sorted(Counter(firsts).items())}


@pytest.mark.parametrize("how", ["session", "chance", "picked"])
def test_each_comes_first_as_often_as_its_weight_says(how: str) -> None:
    chance = by_chance(SeededWorld(7))
    firsts = []
    for number in range(MANY):
        if how == "picked":
            firsts.append(picked(THREE, chance).name)
        else:
            firsts.append(race(THREE, by_session(f"k:{number}") if how == "session" else chance)[0].name)
    assert shares(firsts) == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.2}, abs=0.03)


def test_the_second_has_its_share_of_the_rest() -> None:
    """Else the load of a place that fails would fall on one of the others."""
    orders = [race(THREE, by_session(f"k:{number}")) for number in range(MANY)]
    seconds = [order[1].name for order in orders if order[0].name == "a"]
    assert shares(seconds) == pytest.approx({"b": 0.6, "c": 0.4}, abs=0.03)


def test_many_equals_share_evenly() -> None:
    runners = [Runner(f"upstream-{number}", 1) for number in range(20)]
    firsts = [race(runners, by_session(f"k:{number}"))[0].name for number in range(MANY)]
    assert len(shares(firsts)) == 20
    assert all(share == pytest.approx(1 / 20, abs=0.015) for share in shares(firsts).values())


def test_names_that_differ_in_little_are_independent() -> None:
    """Clients count their sessions: neighbours must not follow each other to the same place."""
    firsts = [race([Runner("a", 1), Runner("b", 1)], by_session(f"k:{number}"))[0].name for number in range(MANY)]
    assert sum(one == other for one, other in pairwise(firsts)) / MANY == pytest.approx(0.5, abs=0.03)


def test_a_place_that_goes_moves_only_its_own_conversations() -> None:
    for number in range(500):
        draw = by_session(f"k:{number}")
        before, after = race(THREE, draw), race(THREE[1:], draw)
        assert after == [runner for runner in before if runner.name != "a"]


def test_the_weightless_come_last_as_written() -> None:
    runners = [Runner("x", 0), *THREE, Runner("y", 0)]
    assert [runner.name for runner in race(runners, by_session("k:1"))][3:] == ["x", "y"]
    assert picked([Runner("x", 0), Runner("y", 0)], by_chance(SeededWorld())).name == "x"
    assert race([], by_session("k")) == []


def test_every_process_draws_the_same() -> None:
    code = "from xrouter.routing.chance import by_session, seed_of; print(by_session('k:Ж')(seed_of('up', 'm')))"
    drawn = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert drawn == {f"{by_session('k:Ж')(seed_of('up', 'm'))}\n"}


@pytest.mark.parametrize(
    ("header", "body", "session"),
    [
        (None, {}, None),
        (None, {"user": ""}, None),
        (None, {"user": "u"}, "k:u"),
        (None, {"user": "u", "prompt_cache_key": "p"}, "k:p"),
        (None, {"user": "u", "prompt_cache_key": "p", "session_id": "s"}, "k:s"),
        ("h", {"session_id": "s"}, "k:h"),
        (None, {"user": "x" * 10_000}, "k:" + "x" * 256),
    ],
)
def test_the_conversations_name(header: str | None, body: dict[str, Any], session: str | None) -> None:
    ctx = RequestContext("r", "g", Endpoint("chat", "POST", inference=True), 0.0, 0.0, session_id=header)
    ctx.principal = Principal("k", "acme")
    ctx.call = read_call("chat", encode_json({"model": "a/b", "messages": [{"role": "user", "content": "x"}], **body}))
    assert session_of(ctx) == session


def test_a_name_that_is_no_text_is_drawn_by_too() -> None:
    """A lone surrogate is a string to JSON and cannot be encoded as UTF-8."""
    assert 0 < by_session("k:\ud800")(1) <= 1


def test_chance_is_never_nothing() -> None:
    """The logarithm of 0 has no value."""
    world: Any = SimpleNamespace(random=lambda: 0.0)
    assert by_chance(world)(0) == 1.0
