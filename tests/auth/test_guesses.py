import pytest
from kit.keys import HandWorld

from xrouter.auth.guesses import GuessLimit
from xrouter.errors import RateLimited


def spent(limit: GuessLimit, address: str) -> int:
    """How many guesses `address` had left."""
    for count in range(10_000):
        try:
            limit.take(address)
        except RateLimited:
            return count
    raise AssertionError("no limit")


def test_a_hundred_at_once_then_ten_a_second(world: HandWorld) -> None:
    limit = GuessLimit(world)
    assert spent(limit, "192.0.2.1") == 100
    with pytest.raises(RateLimited) as caught:
        limit.take("192.0.2.1")
    assert caught.value.retry_after_s == pytest.approx(0.1)
    world.advance(1)
    assert spent(limit, "192.0.2.1") == 10
    world.advance(1e6)
    assert spent(limit, "192.0.2.1") == 100


def test_a_key_that_was_there_costs_nothing(world: HandWorld) -> None:
    limit = GuessLimit(world)
    for _ in range(500):
        limit.give_back(limit.take("192.0.2.1"))
    assert spent(limit, "192.0.2.1") == 100


def test_addresses_are_counted_apart_but_not_those_of_one_subscriber(world: HandWorld) -> None:
    limit = GuessLimit(world)
    assert spent(limit, "2001:db8::1") == 100
    assert spent(limit, "2001:db8::ffff:1") == 0
    assert spent(limit, "2001:db8:0:1::1") == 100
    assert spent(limit, "::ffff:192.0.2.1") == 100
    assert spent(limit, "::ffff:192.0.2.2") == 100
    assert spent(limit, "") == 100
