"""How long a model's answers have been lately: what a request without `max_tokens` holds for."""

from collections import deque
from typing import Final

from xrouter.context import Target

_REMEMBERED: Final = 64
_QUANTILE: Final = 0.9  # so many of ten holds never have to grow
_UNKNOWN: Final = 1024
_LEAST: Final = 64


class RecentOutputs:
    """The output tokens of the last answers of each model, in this process."""

    def __init__(self) -> None:
        self._lengths: dict[str, deque[int]] = {}

    def add(self, target: Target, output_tokens: int) -> None:
        self._lengths.setdefault(target.public_model, deque(maxlen=_REMEMBERED)).append(output_tokens)

    def expected(self, target: Target) -> int:
        """Nine of ten recent answers were not longer; a guess where there were none."""
        lengths = self._lengths.get(target.public_model)
        if not lengths:
            return _UNKNOWN
        return max(_LEAST, sorted(lengths)[int(len(lengths) * _QUANTILE)])
