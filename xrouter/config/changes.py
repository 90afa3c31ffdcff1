"""What differs between two configurations in meaning: not lines of YAML, but values, with secrets only as "changed"."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

import msgspec

from xrouter.config.settings import FilterEntry, Settings
from xrouter.config.show import compact, plain
from xrouter.secret import Secret

_ABSENT: Final = object()


class Change(msgspec.Struct, frozen=True):
    """`where` is the path of a key. `old` or `new` is None where the other configuration has no such thing."""

    where: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        if self.old is None:
            return f"+ {self.where}: {self.new}"
        if self.new is None:
            return f"- {self.where}: {self.old}"
        return f"~ {self.where}: {self.old} → {self.new}"


def changes(old: Settings, new: Settings) -> list[Change]:
    """In the order of the configuration's sections."""
    return list(_differences("", old, new))


def _differences(where: str, old: Any, new: Any) -> Iterator[Change]:
    if old is _ABSENT or new is _ABSENT:
        yield Change(where, _text(old), _text(new))
    elif isinstance(old, Secret) and isinstance(new, Secret):
        if old.reveal() != new.reveal():
            yield Change(where, *_secrets(old, new))
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _by_name(where, old, new)
    elif _are_filters(old) and _are_filters(new):
        yield from _filters(where, old, new)
    elif is_dataclass(old) and type(old) is type(new):
        for field in fields(old):
            yield from _differences(_below(where, field.name), getattr(old, field.name), getattr(new, field.name))
    elif old != new:
        yield Change(where, _text(old), _text(new))


def _by_name(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name in [*old, *(name for name in new if name not in old)]:
        yield from _differences(_below(where, name), old.get(name, _ABSENT), new.get(name, _ABSENT))


def _filters(where: str, old: tuple[FilterEntry, ...], new: tuple[FilterEntry, ...]) -> Iterator[Change]:
    """By their names, then by their order: where a filter stands in the file is no difference in meaning."""
    before, after = ({entry.name: entry for entry in entries} for entries in (old, new))
    for name in [*before, *(name for name in after if name not in before)]:
        one, other = before.get(name), after.get(name)
        yield from _differences(_below(where, name), one.config if one else _ABSENT, other.config if other else _ABSENT)
    shared = [entry.name for entry in old if entry.name in after]
    if shared != [entry.name for entry in new if entry.name in before]:
        yield Change(f"{where} (order)", ", ".join(before), ", ".join(after))


def _are_filters(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, FilterEntry) for item in value) and bool(value)


def _secrets(old: Secret, new: Secret) -> tuple[str, str]:
    if old and new:
        return "set", "set to something else"
    return ("set", "not set") if old else ("not set", "set")


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _text(value: Any) -> str | None:
    return None if value is _ABSENT else compact(plain(value))
