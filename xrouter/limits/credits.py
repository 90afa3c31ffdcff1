"""What a request costs, as a limit of credits needs it: in millionths of a credit, rounded up.

The ledger charges by its own exact arithmetic; this bounds use in a window, before the quote is known.
"""

from decimal import ROUND_CEILING, Decimal
from typing import Final

from xrouter.catalog import Catalog
from xrouter.config.settings import Price
from xrouter.limits.limit import MICRO

_NANO_PER_MICRO: Final = 1000


def dearest(catalog: Catalog, models: tuple[str, ...], input_tokens: int, output_tokens: int) -> int:
    """The cost at the dearest of the models that may serve; a free or unknown one costs nothing."""
    entries = catalog.entries()
    prices = [entry.settings.price for name in models if (entry := entries.get(name)) is not None]
    return max((_cost(price, input_tokens, output_tokens) for price in prices if isinstance(price, Price)), default=0)


def _cost(price: Price, input_tokens: int, output_tokens: int) -> int:
    tokens = (price.input * input_tokens + price.output * output_tokens) / Decimal(price.per)
    return int(((tokens + price.request) * MICRO).to_integral_value(rounding=ROUND_CEILING))


def from_nano(nanocredits: int) -> int:
    """The ledger's unit, rounded up."""
    return -(-nanocredits // _NANO_PER_MICRO)
