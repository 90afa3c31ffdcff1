"""The parameters of a request that its receipt keeps: what explains a charge, and no text that a person wrote."""

from typing import Any, Final

from xrouter.context import Call

_NUMBERS: Final = frozenset({
    "temperature", "top_p", "top_k", "top_a", "min_p", "n", "best_of", "seed", "max_tokens", "max_completion_tokens",
    "frequency_penalty", "presence_penalty", "repetition_penalty", "parallel_tool_calls", "logprobs", "top_logprobs",
    "dimensions",
})  # fmt: skip
_WORDS: Final = frozenset({"reasoning_effort", "tool_choice", "encoding_format", "service_tier"})
_LISTS: Final = frozenset({"tools", "functions", "stop", "models"})  # of these their length
_KEPT: Final = _NUMBERS | _WORDS | _LISTS
_LARGEST: Final = 2**53  # beyond it, readers of JSON disagree
_LONGEST: Final = 32
_NUMBER: Final = (int, float)  # `int | float` is made, and looked through, five times as slowly


def parameters(call: Call, output_cap: int | None) -> dict[str, Any] | None:
    """As the client sent them; None if there are none. `output_cap`: a `max_tokens` that is ours and not the client's."""
    body = call.body
    kept: dict[str, Any] = {}
    for name, value in body.items():
        if name not in _KEPT:
            continue
        if name in _NUMBERS:
            if isinstance(value, _NUMBER) and -_LARGEST < value < _LARGEST:
                kept[name] = value
        elif isinstance(value, list):
            if name in _LISTS:
                kept[name] = len(value)
        elif isinstance(value, str) and name in _WORDS and len(value) <= _LONGEST and value.isascii():
            kept[name] = value
    if output_cap is not None:
        kept.pop("max_tokens", None)
    return dict(sorted(kept.items())) if kept else None
