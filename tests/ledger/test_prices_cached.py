"""Cached tokens of input: what they cost where a price says nothing of them."""

from pathlib import Path

from xrouter.config.load import load
from xrouter.context import Target
from xrouter.events import Usage
from xrouter.ledger.prices import PriceBook

YAML = """
upstreams:
  giga: {provider: gigachat, credentials: aWQ6c2VjcmV0}
  local: {provider: openai, base_url: "http://127.0.0.1:1/v1"}
models:
  a/plain:
    routes: [{upstream: giga, model: GigaChat-2-Max}, {upstream: local, model: m}]
    price: {input: "0.65", output: "0.65", per: 1000}
  a/said:
    routes: [{upstream: giga, model: GigaChat-2-Max}]
    price: {input: "0.65", output: "0.65", cached_input: "0.1", per: 1000}
filters: [auth, body, routing]
"""
USAGE = Usage(input_tokens=38, output_tokens=4, cached_tokens=37)
TOKEN = 650_000  # nanocredits


def cost(tmp_path: Path, upstream: str, model: str) -> int:
    file = tmp_path / "x.yaml"
    file.write_text(YAML)
    target = Target(upstream=upstream, model="GigaChat-2-Max" if upstream == "giga" else "m", public_model=model)
    return PriceBook(load(file, {})).quote([target], at_s=0).cost(USAGE, target)


def test_gigachat_11_the_raw_total_is_billed(tmp_path: Path) -> None:
    """Precached 37, prompt 1, completion 4: GigaChat's own total, what it bills, is 5."""
    assert cost(tmp_path, "giga", "a/plain") == 5 * TOKEN


def test_other_providers_bill_cached_tokens_as_input(tmp_path: Path) -> None:
    assert cost(tmp_path, "local", "a/plain") == 42 * TOKEN


def test_a_price_that_names_cached_input_is_followed(tmp_path: Path) -> None:
    assert cost(tmp_path, "giga", "a/said") == 5 * TOKEN + 37 * 100_000
