"""The exact fractions of a price as people read them: credits per 1000 tokens, and the lines of a receipt."""

from fractions import Fraction
from typing import Any, Final

from xrouter.ledger.prices import Rates
from xrouter.store.amounts import NANO_PER_CREDIT
from xrouter.store.ledger_rows import Generation

_PER: Final = 1000
_DECIMALS: Final = 18
_ALWAYS: Final = ("input", "output")
_PARTS: Final = ("cached_input", "reasoning")  # told even where they cost nothing


def rates_object(rates: Rates) -> dict[str, Any]:
    """`per` tokens cost so many credits, as decimal strings; an image and the request itself by the piece."""
    token_rates = ("input", "cached_input", "output", "reasoning")
    shape: dict[str, Any] = {"per": _PER}
    shape |= {name: exact(_credits(rates, getattr(rates, name)) * _PER) for name in token_rates}
    shape |= {name: exact(_credits(rates, getattr(rates, name))) for name in ("image", "request")}
    return shape


def cost_lines(row: Generation, rates: Rates) -> list[dict[str, Any]]:
    """What was counted and what each part costs. The sum, rounded up to 10⁻⁹ credit, is the cost, and nothing else is."""
    if row.input_tokens is None or row.output_tokens is None:
        return []
    cached, reasoning = min(row.cached_tokens or 0, row.input_tokens), min(row.reasoning_tokens or 0, row.output_tokens)
    counts = (
        ("input", row.input_tokens - cached, rates.input),
        ("cached_input", cached, rates.cached_input),
        ("output", row.output_tokens - reasoning, rates.output),
        ("reasoning", reasoning, rates.reasoning),
        ("image", row.images, rates.image),
        ("request", 1, rates.request),
    )
    return [
        {"item": item, "count": count, "amount": exact(_credits(rates, rate) * count)}
        for item, count, rate in counts
        if item in _ALWAYS or (count and (rate or item in _PARTS))
    ]


def exact(amount: Fraction) -> str:
    """A decimal string if 18 decimals say it exactly, else a fraction like `1/3`."""
    scaled = amount * 10**_DECIMALS
    if scaled.denominator != 1:
        return str(amount)
    whole, rest = divmod(scaled.numerator, 10**_DECIMALS)
    return f"{whole}.{rest:0{_DECIMALS}d}".rstrip("0").rstrip(".")


def _credits(rates: Rates, rate: int) -> Fraction:
    return Fraction(rate, rates.denominator * NANO_PER_CREDIT)
