"""The rings: what is counted is found again for as long as it is kept, and not longer."""

import random
from bisect import insort

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter.routing.health_window import Counts, Histogram


def test_counts_are_of_the_time_asked_for() -> None:
    counts = Counts(slots=60, slot_s=60)
    counts.add(10.0, True)
    counts.add(70.0, False)
    counts.add(3590.0, True)
    assert counts.read(3590.0, 3600) == (2, 1)
    assert counts.read(3590.0, 60) == (1, 0)
    assert counts.read(3600.0, 3600) == (1, 1), "the first minute is over the edge"
    assert counts.read(1e6, 3600) == (0, 0)


@given(st.lists(st.tuples(st.floats(0, 400), st.booleans()), max_size=60), st.integers(1, 10))
def test_counts_agree_with_a_list(steps: list[tuple[float, bool]], slots: int) -> None:
    counts, kept, now = Counts(slots, 10), [], 0.0
    for gap, good in steps:
        now += gap
        counts.add(now, good)
        kept.append((int(now / 10), good))
    newest = [good for slot, good in kept if slot > int(now / 10) - slots]
    assert counts.read(now, slots * 10) == (sum(newest), len(newest) - sum(newest))


@pytest.mark.parametrize("spread", [0.002, 0.3, 40.0, 3000.0])
def test_percentiles_are_right_within_a_twentieth(spread: float) -> None:
    chance = random.Random(4)
    histogram = Histogram(slots=15, slot_s=120)
    values: list[float] = []
    for step in range(2000):
        value = spread * (0.5 + chance.random())
        insort(values, value)
        histogram.add(step * 0.5, value)
    found = histogram.percentiles(1000.0, (0.5, 0.75, 0.9, 0.99))
    assert found is not None
    for share, value in zip((0.5, 0.75, 0.9, 0.99), found, strict=True):
        assert value == pytest.approx(values[int(share * len(values)) - 1], rel=0.06)


def test_percentiles_forget_after_their_time() -> None:
    histogram = Histogram(slots=15, slot_s=120)
    histogram.add(0.0, 5.0)
    assert histogram.percentiles(1700.0, (0.5,)) == pytest.approx([5.0], rel=0.06)
    assert histogram.percentiles(1800.0, (0.5,)) is None
    histogram.add(1e6, 1.0)
    assert histogram.percentiles(1e6, (0.5, 0.99)) == pytest.approx([1.0, 1.0], rel=0.06)


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9, 2.0**14])
def test_extremes_are_kept_at_the_ends_of_the_scale(value: float) -> None:
    histogram = Histogram(slots=1, slot_s=60)
    histogram.add(0.0, value)
    found = histogram.percentiles(0.0, (0.5,))
    assert found is not None
    assert 2**-11 < found[0] < 2**14.1
