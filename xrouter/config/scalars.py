"""Scalars by the core schema of YAML 1.2 (section 10.3.2): what a text without quotes is.

PyYAML alone would follow YAML 1.1, where `no` is false, `1:30` is ninety and `010` is eight.
"""

import re
from typing import Final, Literal

Kind = Literal["null", "bool", "int", "float", "text"]

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LONGEST_NUMBER: Final = 64  # characters; keeps int() and float() from working through kilobytes of digits


def core_kind(text: str) -> Kind:
    """What the plain scalar `text` is."""
    if text in _NULL:
        return "null"
    if text in _BOOLS:
        return "bool"
    if _INT.fullmatch(text):
        return "int"
    return "float" if _FLOAT.fullmatch(text) else "text"


def parse_bool(text: str) -> bool:
    """Raises ValueError."""
    try:
        return _BOOLS[text]
    except KeyError:
        raise ValueError("not true or false") from None


def parse_int(text: str) -> int:
    """Raises ValueError."""
    if len(text) > _LONGEST_NUMBER or not _INT.fullmatch(text):
        raise ValueError("not a whole number")
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)


def parse_float(text: str) -> float:
    """May be infinite or not a number. Raises ValueError."""
    if len(text) > _LONGEST_NUMBER or core_kind(text) not in ("int", "float"):
        raise ValueError("not a number")
    if _INT.fullmatch(text):
        return float(parse_int(text))
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
