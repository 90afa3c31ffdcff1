"""The configuration's tree → frozen dataclasses, strictly: by the annotations of their fields.

What can be decoded: str, int, float, bool, Decimal, Secret, ByteSize, Literal, `tuple[X, ...]`, `Mapping[str, X]`,
dataclasses of these, and unions of these with each other or None. Every problem is noted at its place and the decoder
goes on, so that one run tells all of them. No message repeats a value that the environment or a Secret field supplied.
"""

import difflib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from xrouter.config.document import Entry, MappingNode, Node, ScalarNode, SequenceNode
from xrouter.config.leaves import LEAVES, decode_leaf, leaf_expectation
from xrouter.config.problems import Invalid, Place, Problems
from xrouter.config.rules import item_fault, value_fault
from xrouter.secret import Secret, each

Custom = Mapping[str, Callable[[Entry], object]]
"""Fields that the caller decodes itself, by name."""

_NONE: Final[Custom] = types.MappingProxyType({})
_UNSET: Final = object()
_MAPPINGS: Final = (Mapping, dict)


class UnsupportedType(Exception):
    """A class's annotation is none that a configuration can hold: a mistake in that class, not in the file."""


class Decoder:
    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def dataclass(self, cls: type[Any], node: Node, owner: Place) -> Any:
        """An instance of `cls`.

        `owner` is where the thing is named that `node` describes: missing keys and the class's own complaints stand there.
        Raises Invalid, and UnsupportedType.
        """
        values, whole = self.fields(cls, node, owner)
        if not whole:
            raise Invalid(cls.__name__)
        try:
            return cls(**values)
        except Exception as error:  # a plugin's __post_init__ may fail in any way; it is a problem of this place
            kind = "" if isinstance(error, ValueError) else f"{cls.__qualname__} failed: {type(error).__name__}: "
            message = _concealed(str(error) or "not accepted", node, values.values())
            raise self._problems.fail(owner, f"{kind}{message}") from error

    def fields(self, cls: type[Any], node: Node, owner: Place, custom: Custom = _NONE) -> tuple[dict[str, Any], bool]:
        """The values of those fields that could be decoded, and whether that is all of them. Raises UnsupportedType."""
        if not isinstance(node, MappingNode):
            raise self._problems.fail(node.place, f"expected a mapping, found {_found(node)}")
        annotations = hints(cls)
        known = {field.name: field for field in fields(cls) if field.init}
        whole = True
        for name, entry in node.entries.items():
            if name not in known:
                self._problems.add(entry.place, unknown_key(name, known))
                whole = False
        values: dict[str, Any] = {}
        for name, field in known.items():
            try:
                value = self._field(cls, field, annotations[name], node.entries.get(name), owner, custom.get(name))
            except Invalid:
                whole = False
            else:
                if value is not _UNSET:
                    values[name] = value
        return values, whole

    def _field(
        self,
        cls: type[Any],
        field: Field[Any],
        annotation: Any,
        entry: Entry | None,
        owner: Place,
        decode: Callable[[Entry], object] | None,
    ) -> object:
        """The value of one field, or _UNSET where its default is to stand."""
        optional = field.default is not MISSING or field.default_factory is not MISSING
        if entry is None:
            if optional:
                return _UNSET
            raise self._problems.fail(owner, f"missing key {field.name!r}")
        node = entry.value
        if isinstance(node, ScalarNode) and not node.broken and (node.empty or not node.text):
            nullable = type(None) in _alternatives(annotation)
            if nullable and not node.names:
                return None
            if optional and node.empty:
                return _UNSET
            if nullable:
                return None
            if node.empty:
                raise self._problems.fail(node.place, _empty_message(field.name, node))
        if decode is not None:
            return decode(entry)
        value = self.value(annotation, node, entry.place)
        self._check(cls, field.name, value, node)
        return value

    def _check(self, cls: type[Any], name: str, value: Any, node: Node) -> None:
        """Hold a field's value, and each item of a list, against the rules for it. Raises Invalid."""
        faults: list[tuple[Place, str]] = []
        if isinstance(value, tuple) and isinstance(node, SequenceNode):
            for item, item_node in zip(value, node.items, strict=True):
                if fault := item_fault(cls, name, item):
                    faults.append((item_node.place, fault))
        if fault := value_fault(cls, name, value):
            faults.append((node.place, fault))
        for place, fault in faults:
            self._problems.add(place, fault)
        if faults:
            raise Invalid(name)

    def value(self, annotation: Any, node: Node, owner: Place) -> Any:
        """`node` as a value of the type that `annotation` names. Raises Invalid and UnsupportedType."""
        if isinstance(node, ScalarNode) and node.broken:
            raise Invalid("a variable is missing")
        alternatives = _alternatives(annotation)
        if len(alternatives) > 1:
            return self._union(alternatives, node, owner)
        origin, arguments = get_origin(annotation), get_args(annotation)
        if is_dataclass(annotation) and isinstance(annotation, type):
            return self.dataclass(annotation, node, owner)
        if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
            return self._tuple(arguments[0], node)
        if origin in _MAPPINGS:
            if arguments[0] is not str:
                raise UnsupportedType("a mapping whose keys are not str")
            return self._mapping(arguments[1], node)
        if origin is not Literal and annotation not in LEAVES:
            raise UnsupportedType(f"the type {annotation}")
        if not isinstance(node, ScalarNode):
            raise self._problems.fail(node.place, f"expected {leaf_expectation(annotation)}, found {_found(node)}")
        try:
            return decode_leaf(annotation, node)
        except ValueError as error:
            raise self._problems.fail(node.place, str(error)) from error

    def _tuple(self, annotation: Any, node: Node) -> tuple[Any, ...]:
        if not isinstance(node, SequenceNode):
            raise self._problems.fail(node.place, f"expected a list, found {_found(node)}")
        return tuple(self._all((annotation, item, item.place) for item in node.items))

    def _mapping(self, annotation: Any, node: Node) -> Mapping[str, Any]:
        if not isinstance(node, MappingNode):
            raise self._problems.fail(node.place, f"expected a mapping, found {_found(node)}")
        values = self._all((annotation, entry.value, entry.place) for entry in node.entries.values())
        return dict(zip(node.entries, values, strict=True))

    def _all(self, wanted: Iterable[tuple[Any, Node, Place]]) -> list[Any]:
        """Every value, or Invalid after all of them have been looked at."""
        values: list[Any] = []
        whole = True
        for annotation, node, owner in wanted:
            try:
                values.append(self.value(annotation, node, owner))
            except Invalid:
                whole = False
        if not whole:
            raise Invalid("an item")
        return values

    def _union(self, alternatives: tuple[Any, ...], node: Node, owner: Place) -> Any:
        """The first alternative that fits. Where only one can be meant, its problems are the ones to tell."""
        real = [one for one in alternatives if one is not type(None)]
        fitting = [one for one in real if _shape(one) is type(node)]
        if len(real) == 1 or (len(fitting) == 1 and not isinstance(node, ScalarNode)):
            return self.value((fitting or real)[0], node, owner)
        for one in fitting:
            try:
                return Decoder(Problems()).value(one, node, owner)
            except Invalid:
                continue
        expected = " or ".join(dict.fromkeys(_expectation(one) for one in real))
        raise self._problems.fail(node.place, f"expected {expected}, found {_found(node)}")


def hints(cls: type[Any]) -> dict[str, Any]:
    """The annotations of a dataclass's fields, resolved. Raises UnsupportedType."""
    try:
        return get_type_hints(cls)
    except Exception as error:  # whatever an operator's own class makes of its annotations
        raise UnsupportedType(f"annotations that cannot be resolved: {type(error).__name__}: {error}") from error


def is_secret(annotation: Any) -> bool:
    """Whether a field with this annotation holds a Secret, or several."""
    return not {Secret, tuple[Secret, ...]}.isdisjoint(_alternatives(annotation))


def unknown_key(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown key {shown(name)}; known: {', '.join(names) or 'none'}{hint}"


def shown(text: str) -> str:
    """What the file says, short enough for a message."""
    return repr(text if len(text) <= 60 else text[:57] + "…")


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _shape(annotation: Any) -> type[Node]:
    origin = get_origin(annotation)
    if origin is tuple:
        return SequenceNode
    if origin in _MAPPINGS or is_dataclass(annotation):
        return MappingNode
    return ScalarNode


def _expectation(annotation: Any) -> str:
    shape = _shape(annotation)
    if shape is ScalarNode:
        return leaf_expectation(annotation)
    return "a list" if shape is SequenceNode else "a mapping"


def _found(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return node.description
    return "a list" if isinstance(node, SequenceNode) else "a mapping"


def _empty_message(name: str, node: ScalarNode) -> str:
    if node.names:
        return f"{name!r} is empty: so the environment leaves it ({', '.join(node.names)})"
    return f"{name!r} is empty"


def _concealed(message: str, node: Node, values: Iterable[Any]) -> str:
    """`message`, from a class that checks its own values, without any that the environment or a secret supplied."""
    hidden = set(_from_environment(node)) | {
        secret.reveal() for value in values for secret in each(value) if isinstance(secret, Secret)
    }
    for text in sorted(hidden, key=len, reverse=True):
        if text:
            message = message.replace(text, "***")
    return message


def _from_environment(node: Node) -> Iterable[str]:
    if isinstance(node, ScalarNode):
        return (node.text,) if node.names else ()
    children = node.items if isinstance(node, SequenceNode) else tuple(entry.value for entry in node.entries.values())
    return tuple(text for child in children for text in _from_environment(child))
