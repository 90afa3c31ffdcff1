import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter.store.amounts import format_credits, parse_credits


@given(st.integers(0, 2**63 - 1))
def test_every_amount_survives_the_way_to_text_and_back(nano: int) -> None:
    assert parse_credits(format_credits(nano)) == nano


@pytest.mark.parametrize(
    ("text", "nano"),
    [("0", 0), ("1", 10**9), ("1.50", 1_500_000_000), ("0.000000001", 1), ("9223372036.854775807", 2**63 - 1)],
)
def test_amounts_are_read_exactly(text: str, nano: int) -> None:
    assert parse_credits(text) == nano


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1e3", "1.", ".5", "1.0000000001", "NaN", "١", "1 ", "9223372036.854775808", "1_0", "1\n"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="credits"):
        parse_credits(text)


def test_formatting_is_short_and_keeps_the_sign() -> None:
    assert [format_credits(nano) for nano in (0, -1, 10**9, -1_500_000_000)] == ["0", "-0.000000001", "1", "-1.5"]
