"""How long to wait before a worker that could not stay alive is followed by the next one."""

from typing import Final

_YOUNG_S: Final = 5.0  # one that dies younger than this makes its successor wait
_FIRST_S: Final = 0.25
_LONGEST_S: Final = 10.0


class Backoff:
    """By worker number. Only deaths in a row count: one that has lived for a while ends the row."""

    def __init__(self) -> None:
        self._in_a_row: dict[int, int] = {}

    def pause_s(self, number: int, lived_s: float) -> float:
        """After worker `number` has died `lived_s` after its start; 0 for one that could not be started at all."""
        if lived_s >= _YOUNG_S:
            self._in_a_row.pop(number, None)
            return 0.0
        before = self._in_a_row.get(number, 0)
        self._in_a_row[number] = before + 1
        return min(_FIRST_S * 2.0 ** min(before, 10), _LONGEST_S)
