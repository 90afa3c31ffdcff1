"""What each route costs today, looked up once a day and route."""

from xrouter.ledger.prices import PriceBook, Rates
from xrouter.routing.options import Option

_DAY_S = 86400


class TodaysRates:
    """Prices change at midnight UTC only (`models.*.price.since` is a date), so a day's are kept."""

    def __init__(self, prices: PriceBook) -> None:
        self._prices = prices
        self._day = -1
        self._known: dict[Option, Rates] = {}

    def of(self, option: Option, at_s: float) -> Rates:
        """The price in force at `at_s`, seconds since the epoch."""
        day = int(at_s // _DAY_S)
        if day != self._day:
            self._day = day
            self._known.clear()
        found = self._known.get(option)
        if found is None:
            quote = self._prices.quote((option.target,), at_s)
            found = self._known[option] = quote.prices[option.target].rates
        return found

    def per_token(self, option: Option, at_s: float) -> float:
        """For comparisons: a token of input and one of output."""
        rates = self.of(option, at_s)
        return (rates.input + rates.output) / rates.denominator
