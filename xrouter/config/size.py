"""A number of bytes that people write as `20MB`."""

import re
from fractions import Fraction
from typing import Final, NewType

ByteSize = NewType("ByteSize", int)
"""Bytes. In the configuration a whole number, or a number with a unit: `20MB`, `512KiB`, `1.5GB`."""

_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}
_PATTERN: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([KMG]i?B|B)?", re.ASCII | re.IGNORECASE)


def parse_size(text: str) -> ByteSize:
    """Raises ValueError unless `text` is a size in whole bytes."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError("not a size such as 20MB")
    size = Fraction(match[1]) * _UNITS[(match[2] or "").lower()]
    if size.denominator != 1:
        raise ValueError("not a whole number of bytes")
    return ByteSize(size.numerator)
