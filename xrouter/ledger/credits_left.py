"""What keys can still spend, as far as this process knows.

The ledger says it with every hold, so nobody has to ask the store. It is a hint that sizes rate limits, and no money is
decided by it: as old as the key's last priced request here, and unknown before the first.
"""

from typing import Final

NANO: Final = 1_000_000_000  # of a credit
_MOST_KEYS: Final = 100_000  # some 15 MB


class CreditsLeft:
    """By key; the key that was heard of first is forgotten first."""

    __slots__ = ("_nano",)

    def __init__(self) -> None:
        self._nano: dict[str, int] = {}

    def note(self, key_hash: str, payable_nano: int) -> None:
        self._nano[key_hash] = payable_nano
        if len(self._nano) > _MOST_KEYS:
            del self._nano[next(iter(self._nano))]

    def of(self, key_hash: str) -> int | None:
        """Whole credits; None if this process has not heard of the key."""
        nano = self._nano.get(key_hash)
        return None if nano is None else max(0, nano // NANO)
