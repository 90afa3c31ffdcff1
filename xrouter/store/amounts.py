"""Credits as people write them ⇄ integers of 10⁻⁹ credit, the only form in which amounts are stored or counted."""

import re
from typing import Final

NANO_PER_CREDIT: Final = 10**9
_LARGEST_NANO: Final = 2**63 - 1  # what BIGINT holds: 9.2 · 10⁹ credits
_CREDITS: Final = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,9}))?", re.ASCII)


def parse_credits(text: str) -> int:
    """The amount in 10⁻⁹ credit of a decimal string like `12.5`. Raises ValueError."""
    match = _CREDITS.fullmatch(text)
    if match is None:
        raise ValueError("an amount is a number of credits with at most 9 decimals, like 12.5")
    nano = int(match[1]) * NANO_PER_CREDIT + int((match[2] or "").ljust(9, "0"))
    if nano > _LARGEST_NANO:
        raise ValueError("an amount is less than 9223372036.854775808 credits")
    return nano


def format_credits(nano: int) -> str:
    """The shortest decimal string of credits that `parse_credits` reads as `nano`; a minus sign if it is negative."""
    whole, fraction = divmod(abs(nano), NANO_PER_CREDIT)
    decimals = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{'-' if nano < 0 else ''}{whole}{decimals}"
