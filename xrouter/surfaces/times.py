"""Times as answers carry them: ISO 8601 with an offset, which OpenRouter's strict clients ask for."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime.fromtimestamp(0, UTC)
_DATE_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def iso_time(at_us: int) -> str:
    """`2026-11-24T22:30:00.123456+00:00`, from microseconds since the epoch."""
    return (EPOCH + timedelta(microseconds=at_us)).isoformat(timespec="microseconds")


def parse_time(text: str) -> int:
    """Microseconds since the epoch of a date and time with an offset (RFC 3339). Raises ValueError."""
    if not _DATE_TIME.fullmatch(text):
        raise ValueError("a time is written like 2027-01-31T12:00:00+03:00 or 2027-01-31T09:00:00Z")
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)
