"""One scalar of the configuration as one typed value."""

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, Literal, get_args, get_origin

from xrouter.config.document import ScalarNode
from xrouter.config.scalars import core_kind, parse_bool, parse_float, parse_int
from xrouter.config.size import ByteSize, parse_size
from xrouter.secret import Secret

_EXPECTATIONS: Final[Mapping[Any, str]] = {
    str: "text",
    Secret: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Decimal: "a price",
    ByteSize: "a size such as 20MB or 512KiB",
}
LEAVES: Final = frozenset(_EXPECTATIONS)

_LARGEST_INT: Final = 2**63 - 1
_DECIMAL: Final = re.compile(r"[-+]?[0-9]{1,18}(\.[0-9]{1,18})?")
_PRICE_ADVICE: Final = 'write prices as quoted decimal strings, such as "0.65"'


def decode_leaf(annotation: Any, node: ScalarNode) -> Any:
    """The value of `node` as the type `annotation`: one of LEAVES or a Literal. Raises ValueError, for the operator.

    A scalar that holds a variable is read as the wanted type whether or not it stands in quotes: inside `{ }` YAML wants
    quotes around `${NAME}`, and what the variable holds is always text.
    """
    if get_origin(annotation) is Literal:
        return _literal(annotation, node)
    if annotation is str or annotation is Secret:
        if node.plain and not node.names and core_kind(node.text) != "text":
            raise ValueError(f"expected text, found {node.description}; put it in quotes")
        return Secret(node.text) if annotation is Secret else node.text
    if annotation is Decimal:
        return _decimal(node)
    if not node.plain and not node.names and annotation is not ByteSize:
        raise ValueError(f"expected {leaf_expectation(annotation)}, found text (in quotes)")
    try:
        value = _NUMBERS[annotation](node.text)
    except ValueError as error:
        raise ValueError(f"expected {leaf_expectation(annotation)}, found {node.description}") from error
    if annotation is float and not math.isfinite(value):
        raise ValueError("expected a finite number")
    if annotation in (int, ByteSize) and abs(value) > _LARGEST_INT:
        raise ValueError("the number is too large")
    return value


def leaf_expectation(annotation: Any) -> str:
    """What `annotation` wants, in words: "expected …"."""
    if get_origin(annotation) is Literal:
        choices = [repr(choice) if isinstance(choice, str) else str(choice) for choice in get_args(annotation)]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    return _EXPECTATIONS[annotation]


def _literal(annotation: Any, node: ScalarNode) -> Any:
    readers: tuple[Callable[[str], Any], ...] = (str, parse_int, parse_bool)
    for choice in get_args(annotation):
        for reader in readers:
            try:
                value = reader(node.text)
            except ValueError:
                continue
            if type(value) is type(choice) and value == choice:
                return choice
    found = node.description if node.names else repr(node.text[:60])
    raise ValueError(f"expected {leaf_expectation(annotation)}, found {found}")


def _decimal(node: ScalarNode) -> Decimal:
    """Exact or refused: a float would already have lost digits by the time anyone could count them."""
    if node.plain and not node.names:
        raise ValueError(_PRICE_ADVICE)
    if node.text.lower().lstrip("+-") in ("nan", "inf", "infinity", ".nan", ".inf"):
        raise ValueError(f"a price is a finite number; {_PRICE_ADVICE}")
    if not _DECIMAL.fullmatch(node.text):
        raise ValueError(f"expected a decimal number of at most 18 digits on either side of the point; {_PRICE_ADVICE}")
    return Decimal(node.text)


_NUMBERS: Final[Mapping[Any, Callable[[str], Any]]] = {
    int: parse_int,
    float: parse_float,
    bool: parse_bool,
    ByteSize: parse_size,
}
