"""A secret that cannot be printed by accident: redaction by type, not at call sites (incident I-27)."""

from typing import Final, TypeVar


class Secret:
    """A value whose `str`, `repr`, format and JSON are `***`; only `reveal()` gives it away."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value: Final = value

    def reveal(self) -> str:
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[type["Secret"], tuple[str]]:
        raise TypeError("a secret is not serialised")


T = TypeVar("T")


def each(value: T | tuple[T, ...] | None) -> tuple[T, ...]:
    """One credential, several, or none, as the several that are set: an empty one is an absent one."""
    if not isinstance(value, tuple):
        value = () if value is None else (value,)
    return tuple(item for item in value if item)
