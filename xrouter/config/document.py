"""The configuration file as a tree of placed values: YAML with everything surprising taken out.

PyYAML composes the tree and constructs nothing. What is refused: tags, keys that are not text, a key written twice, more
than one document, trees that are too large or too deep (counted with every alias written out, so that no few lines of
aliases stand for a billion nodes). What is kept: anchors, aliases and merge keys (`<<`). Scalars stay text, for the
decoder to read as the type that it wants.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from xrouter.config.interpolate import REFERENCE, interpolate
from xrouter.config.problems import Place, Problems
from xrouter.config.scalars import core_kind

MAX_BYTES: Final = 512 * 1024
MAX_NODES: Final = 50_000
MAX_DEPTH: Final = 40
_MERGE: Final = "<<"
_DESCRIPTIONS: Final = {
    "null": "nothing",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number with a fraction",
    "text": "text",
}


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """`plain`: written without quotes. `names`: the environment variables that the text took part from.

    `broken`: a variable is missing; that is noted, and whatever else `text` is would be no news.
    """

    place: Place
    text: str
    plain: bool
    names: tuple[str, ...] = ()
    broken: bool = False

    @property
    def empty(self) -> bool:
        """Nothing is written here (or `null`), or the environment left nothing of it."""
        if self.names:
            return not self.text
        return self.plain and core_kind(self.text) == "null"

    @property
    def description(self) -> str:
        """What it is, in words, without the value."""
        if self.names:
            return f"another value from the environment ({', '.join(self.names)})"
        return _DESCRIPTIONS[core_kind(self.text)] if self.plain else "text"


@dataclass(frozen=True, slots=True)
class SequenceNode:
    place: Place
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One `key: value`. `place` is the key's."""

    place: Place
    value: "Node"


@dataclass(frozen=True, slots=True)
class MappingNode:
    place: Place
    entries: Mapping[str, Entry]


Node = ScalarNode | SequenceNode | MappingNode


def read_document(data: bytes, path: Path, environ: Mapping[str, str], problems: Problems) -> MappingNode:
    """The tree of a file's `data`. Raises Invalid if there is none; lesser problems are noted and what they concern is left
    out. `path` is what places name.
    """
    start = Place(str(path), 1, 1)
    source = _text(data, start, problems)
    try:
        root = yaml.compose(source, Loader=_Composer)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _place(start, mark) if mark else start
        raise problems.fail(place, _syntax_message(error, source, mark)) from error
    except yaml.reader.ReaderError as error:
        message = f"the character U+{error.character:04X} may not stand in YAML"
        raise problems.fail(_position(start, source, error.position), message) from error
    node = _Builder(start, source, environ, problems).build(root) if root else ScalarNode(start, "", plain=True)
    if isinstance(node, ScalarNode) and node.empty:
        raise problems.fail(node.place, "the file is empty: it needs at least upstreams, models and filters")
    if not isinstance(node, MappingNode):
        raise problems.fail(node.place, "the file holds one mapping: server, upstreams, models, filters, …")
    return node


def read_file(path: Path, problems: Problems) -> bytes:
    """The bytes of a configuration file. Raises Invalid."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a valid path"
        raise problems.fail(Place(str(path), 1, 1), f"cannot be read: {reason}") from error


def _text(data: bytes, start: Place, problems: Problems) -> str:
    if len(data) > MAX_BYTES:
        raise problems.fail(start, f"the file is larger than {MAX_BYTES // 1024} KiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", errors="replace")
        place = _position(start, before, len(before))
        raise problems.fail(place, "the file is not UTF-8 text from here on") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _place(start: Place, mark: yaml.Mark) -> Place:
    return Place(start.file, mark.line + 1, mark.column + 1)


def _position(start: Place, text: str, index: int) -> Place:
    line_start = text.rfind("\n", 0, index) + 1
    return Place(start.file, text.count("\n", 0, index) + 1, index - line_start + 1)


def _syntax_message(error: yaml.MarkedYAMLError, source: str, mark: yaml.Mark | None) -> str:
    found = error.problem or error.context or "not YAML"
    if "'\\t'" in found:
        return "a tab cannot indent or begin a value in YAML; use spaces"
    if mark is not None and source[max(mark.index - 1, 0) : mark.index + 1] == "${":
        return 'inside { } and [ ] a variable needs quotes: "${NAME}"'
    if "but found another document" in found:
        return "the file holds more than one YAML document"
    return f"not valid YAML: {error.context + ', ' if error.context and error.problem else ''}{found}"


class _Composer(yaml.SafeLoader):
    """Composes nodes, and refuses what the module's docstring names while the tree grows."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._level = 0
        self._extents: dict[int, tuple[int, int]] = {}  # of each finished node: nodes and levels, aliases written out

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.NodeEvent = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
        mark = event.start_mark
        assert isinstance(mark, yaml.Mark)  # the other kind is libyaml's, which is not in use here
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, "tags (!…) are not used here", mark)
        if self._level >= MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._extents:
                raise yaml.composer.ComposerError(None, None, "an alias stands inside its own anchor", mark)
        elif node is not None:
            self._extents[id(node)] = self._extent(node, mark)
        return node

    def _extent(self, node: yaml.Node, mark: yaml.Mark) -> tuple[int, int]:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        extents = [self._extents[id(child)] for child in children]
        size = 1 + sum(size for size, _ in extents)
        depth = 1 + max((depth for _, depth in extents), default=0)
        if size > MAX_NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_NODES} values, aliases written out", mark)
        if depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        return size, depth


class _Builder:
    """PyYAML's nodes → ours. A node that several aliases share is built once."""

    def __init__(self, start: Place, source: str, environ: Mapping[str, str], problems: Problems) -> None:
        self._start = start
        self._source = source
        self._environ = environ
        self._problems = problems
        self._built: dict[int, Node] = {}

    def build(self, node: yaml.Node) -> Node:
        known = self._built.get(id(node))
        if known is not None:
            return known
        place = _place(self._start, node.start_mark)
        built: Node
        if isinstance(node, yaml.MappingNode):
            built = MappingNode(place, self._entries(node))
        elif isinstance(node, yaml.SequenceNode):
            built = SequenceNode(place, tuple(self.build(item) for item in node.value))
        else:
            assert isinstance(node, yaml.ScalarNode)
            built = self._scalar(node, place)
        self._built[id(node)] = built
        return built

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> ScalarNode:
        text, plain = node.value, node.style is None
        if "${" not in text:
            return ScalarNode(place, text, plain)
        result = interpolate(text, self._environ)
        for fault in result.faults:
            self._problems.add(self._reference_place(node, fault.ordinal), fault.message)
        return ScalarNode(place, result.text, plain, result.names, broken=bool(result.faults))

    def _reference_place(self, node: yaml.Node, ordinal: int) -> Place:
        """Where the scalar's reference number `ordinal` stands; the scalar's own place where escapes hide it."""
        begin = node.start_mark.index
        found = [match.start() for match in REFERENCE.finditer(self._source[begin : node.end_mark.index])]
        offset = found[ordinal] if ordinal < len(found) else 0
        return _position(self._start, self._source, begin + offset)

    def _entries(self, node: yaml.MappingNode) -> Mapping[str, Entry]:
        entries: dict[str, Entry] = {}
        merged: list[tuple[Place, yaml.Node]] = []
        for key, value in node.value:
            place = _place(self._start, key.start_mark)
            plain = isinstance(key, yaml.ScalarNode) and key.style is None
            if plain and key.value == _MERGE:
                merged.append((place, value))
                continue
            built = self.build(value)
            if not isinstance(key, yaml.ScalarNode) or (plain and core_kind(key.value) != "text"):
                self._problems.add(place, "a key is text; put a number, true, false or null in quotes")
            elif "${" in key.value:
                self._problems.add(place, "a key cannot come from the environment, only a value can")
            elif key.value in entries:
                first = entries[key.value].place
                self._problems.add(place, f"duplicate key {key.value!r}; the first is at {first.line}:{first.column}")
            else:
                entries[key.value] = Entry(place, built)
        for place, value in merged:
            for name, entry in self._merged(place, value):
                entries.setdefault(name, entry)
        return entries

    def _merged(self, place: Place, value: yaml.Node) -> list[tuple[str, Entry]]:
        """What `<<: value` adds: keys that the mapping does not have itself; of several mappings the first wins."""
        built = self.build(value)
        sources = built.items if isinstance(built, SequenceNode) else (built,)
        found: list[tuple[str, Entry]] = []
        for source in sources:
            if isinstance(source, MappingNode):
                found += source.entries.items()
            else:
                self._problems.add(place, "<< takes a mapping or a list of mappings, usually an alias: <<: *name")
        return found
