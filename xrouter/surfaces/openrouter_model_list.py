"""Which models `GET models` lists, and in which order: the query's parameters that say something here.

As at OpenRouter, whose names these are, a parameter that is not known is ignored, and so are those of which XRouter knows
nothing: categories, regions, benchmarks.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from msgspec import Struct

from xrouter.errors import BadRequest
from xrouter.surfaces.query import flag, whole_number

_PER_MILLION: Final = 10**6
_LONGEST_NUMBER: Final = 32


class Listed(Struct, frozen=True):
    """A model's shape, and what the list goes by besides. Speed is the best endpoint's; None: nothing is known."""

    shape: dict[str, Any]
    upstreams: frozenset[str]
    zdr: bool
    latency_s: float | None
    throughput: float | None


Wanted = Callable[[Listed], bool]


def wanted(query: Mapping[str, str]) -> Wanted:
    """Whether a model is asked for. Raises BadRequest."""
    conditions = [
        _text(query.get("q", "").lower()),
        _all_of(query, "supported_parameters", lambda listed: listed.shape["supported_parameters"]),
        _all_of(query, "input_modalities", lambda listed: listed.shape["architecture"]["input_modalities"]),
        _all_of(query, "output_modalities", lambda listed: listed.shape["architecture"]["output_modalities"]),
        _one_of(query, "providers", lambda listed: listed.upstreams),
        _one_of(query, "model_authors", lambda listed: frozenset({listed.shape["owned_by"]})),
        _price(query, "min_price", "max_price", "prompt"),
        _price(query, "min_output_price", "max_output_price", "completion"),
    ]
    if (least := whole_number(query, "context", 0, 10**9)) > 0:
        conditions.append(lambda listed: (listed.shape["context_length"] or 0) >= least)
    if flag(query, "zdr"):
        conditions.append(lambda listed: listed.zdr)
    asked = [condition for condition in conditions if condition is not None]
    return lambda listed: all(condition(listed) for condition in asked)


def order(query: Mapping[str, str]) -> Callable[[Listed], Any]:
    """The key that sorts the list; models of which nothing is known come last."""
    return _ORDERS.get(query.get("sort", ""), lambda listed: 0)


def _text(text: str) -> Wanted | None:
    if not text:
        return None
    return lambda listed: text in listed.shape["id"].lower() or text in listed.shape["name"].lower()


def _all_of(query: Mapping[str, str], name: str, have: Callable[[Listed], list[str]]) -> Wanted | None:
    asked = query.get(name)
    if not asked or asked == "all":
        return None
    names = frozenset(asked.split(","))
    return lambda listed: names.issubset(have(listed))


def _one_of(query: Mapping[str, str], name: str, have: Callable[[Listed], frozenset[str]]) -> Wanted | None:
    asked = query.get(name)
    if not asked:
        return None
    names = frozenset(asked.split(","))
    return lambda listed: not names.isdisjoint(have(listed))


def _price(query: Mapping[str, str], least: str, most: str, part: str) -> Wanted | None:
    """Bounds in credits per million tokens."""
    low, high = _decimal(query, least), _decimal(query, most)
    if low is None and high is None:
        return None

    def within(listed: Listed) -> bool:
        price = _priced(listed, part) * _PER_MILLION
        return (low is None or price >= low) and (high is None or price <= high)

    return within


def _decimal(query: Mapping[str, str], name: str) -> Decimal | None:
    text = query.get(name)
    if not text:
        return None
    try:
        number = Decimal(text) if len(text) <= _LONGEST_NUMBER else None
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite():
        raise BadRequest(f"{name} has to be a number", param=name)
    return number


def _priced(listed: Listed, part: str) -> Decimal:
    return Decimal(listed.shape["pricing"][part])


def _average(listed: Listed) -> Decimal:
    return (_priced(listed, "prompt") + _priced(listed, "completion")) / 2


_ORDERS: Final[Mapping[str, Callable[[Listed], Any]]] = {
    "name": lambda listed: listed.shape["name"],
    "newest": lambda listed: -listed.shape["created"],
    "context-high-to-low": lambda listed: -(listed.shape["context_length"] or 0),
    "pricing-low-to-high": _average,
    "pricing-high-to-low": lambda listed: -_average(listed),
    "throughput-high-to-low": lambda listed: -(listed.throughput or 0.0),
    "latency-low-to-high": lambda listed: (listed.latency_s is None, listed.latency_s or 0.0),
}
