"""The configurations between which a simulated gateway is reloaded, and what they charge: computed here once more, by hand.

The gateway reads them as YAML, as an operator would write them. The witness reads `SHEETS`.
"""

import math
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product
from pathlib import Path

from xrouter.config.load import load
from xrouter.config.settings import Settings

LONGEST = 400  # tokens of output, of every model
PAID, SOLO, FREE = "paid/chat", "solo/chat", "free/chat"
CHANGE = "2027-01-15"  # from when on `solo/chat` costs more
POLICIES = ("bill_delivered", "drain_and_bill", "cancel")
Tokens = tuple[int, int, int, int]  # input, of that cached, output, of that reasoning


@dataclass(frozen=True)
class Sheet:
    """Credits, as decimal strings, per a thousand tokens."""

    input: str
    output: str
    cached: str
    reasoning: str
    request: str

    def yaml(self) -> str:
        return (
            f'input: "{self.input}", output: "{self.output}", cached_input: "{self.cached}",'
            f' reasoning: "{self.reasoning}", request: "{self.request}", per: 1000'
        )

    def nano(self, tokens: Tokens) -> int:
        """The price of so many tokens: exact, then rounded up once (docs/money.md)."""
        prompt, cached, answer, reasoning = tokens
        credits = (
            Fraction(self.input) * (prompt - cached)
            + Fraction(self.cached) * cached
            + Fraction(self.output) * (answer - reasoning)
            + Fraction(self.reasoning) * reasoning
        ) / 1000 + Fraction(self.request)
        return math.ceil(credits * 10**9)


@dataclass(frozen=True)
class Prices:
    paid: Sheet  # of paid/chat at the upstream `one`
    dear: Sheet  # of the same at the upstream `two`
    before: Sheet  # of solo/chat, until CHANGE
    after: Sheet  # and from then on


SHEETS = (
    Prices(
        Sheet("0.65", "1.3", "0.1", "1.3", "0"),
        Sheet("0.9", "1.9", "0", "2.5", "0.001"),
        Sheet("1.2", "1.2", "1.2", "1.2", "0"),
        Sheet("1.7", "1.7", "1.7", "1.7", "0"),
    ),
    Prices(
        Sheet("0.6537911", "1.1234567", "0.0000003", "1.9999999", "0.000000001"),
        Sheet("0.7", "2.0000007", "0.35", "2.0000007", "0"),
        Sheet("3.3333333", "0.0000001", "0", "0.0000001", "0"),
        Sheet("2.2222222", "0.0000001", "0", "0.0000001", "0"),
    ),
    Prices(
        Sheet("4", "9", "1", "9", "0.01"),
        Sheet("5", "11", "1", "11", "0.02"),
        Sheet("6", "6.5", "6", "6.5", "0"),
        Sheet("7", "7.5", "7", "7.5", "0"),
    ),
)


@dataclass(frozen=True)
class Variant:
    """One configuration."""

    prices: int  # of SHEETS
    policy: str
    on_store_failure: str
    concurrency: int

    def nano(self, model: str, upstream: str, day: str, tokens: Tokens) -> int:
        """`day`: YYYY-MM-DD, when the request was admitted."""
        sheets = SHEETS[self.prices]
        if model == FREE:
            return 0
        if model == SOLO:
            return (sheets.after if day >= CHANGE else sheets.before).nano(tokens)
        return (sheets.dear if upstream == "two" else sheets.paid).nano(tokens)


VARIANTS = tuple(Variant(*each) for each in product(range(len(SHEETS)), POLICIES, ("deny", "allow"), (3, 64)))
_YAML = """
upstreams:
  one: {{provider: openai, base_url: "http://one.test/v1", concurrency: {concurrency}, {timeouts}}}
  two: {{provider: openai, base_url: "http://two.test/v1", concurrency: 64, {timeouts}}}
models:
  paid/chat:
    price: {{{paid}, cost: {{input: "0.3", output: "0.7"}}}}
    max_output: {longest}
    routes: [{{upstream: one, model: big}}, {{upstream: two, model: big, price: {{{dear}}}}}]
  solo/chat:
    price: {{{before}}}
    price_changes: [{{since: "{change}", {after}}}]
    max_output: {longest}
    routes: [{{upstream: two, model: small}}]
  free/chat: {{price: free, max_output: {longest}, routes: [{{upstream: one, model: tiny}}]}}
filters:
  - simulation.sim_caller:SimCaller: {{}}
  - body: {{}}
  - routing: {{retries: 1, breaker: {{failures: 5, open_s: 5}}}}
  - token_count: {{}}
  - quota: {{on_store_failure: {variant.on_store_failure}, client_abort: {variant.policy}}}
"""
_TIMEOUTS = "queue_s: 20, timeouts: {first_byte_s: 20, idle_s: 20, total_s: 90}"


@lru_cache
def settings_of(variant: Variant) -> Settings:
    sheets = SHEETS[variant.prices]
    text = _YAML.format(
        variant=variant,
        concurrency=variant.concurrency,
        timeouts=_TIMEOUTS,
        longest=LONGEST,
        change=CHANGE,
        paid=sheets.paid.yaml(),
        dear=sheets.dear.yaml(),
        before=sheets.before.yaml(),
        after=sheets.after.yaml(),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "xrouter.yaml"
        path.write_text(text, encoding="utf-8")
        return load(path, {})
