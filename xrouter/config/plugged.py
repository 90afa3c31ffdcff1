"""The two parts of a configuration whose shape is decided by classes that it names: upstreams and filters."""

import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Final

from xrouter import registry
from xrouter.config.decode import Decoder, UnsupportedType, shown
from xrouter.config.document import Entry, MappingNode, Node, ScalarNode, SequenceNode
from xrouter.config.order import Step, order_problems
from xrouter.config.problems import Invalid, Place, Problems
from xrouter.config.settings import FilterEntry, UpstreamSettings

_UPSTREAM_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NO_KEYS: Final[Mapping[str, Entry]] = {}


class PluggedDecoder:
    """`base` is the folder of the configuration: an operator's own classes are looked up from there."""

    def __init__(self, decoder: Decoder, base: Path, problems: Problems) -> None:
        self._decoder = decoder
        self._base = base
        self._problems = problems

    def upstreams(self, entry: Entry) -> Mapping[str, UpstreamSettings]:
        """Raises Invalid after every upstream has been looked at."""
        node = entry.value
        if not isinstance(node, MappingNode):
            raise self._problems.fail(node.place, "expected a mapping of names to upstreams")
        found: dict[str, UpstreamSettings] = {}
        for name, upstream in node.entries.items():
            try:
                found[name] = self._upstream(name, upstream)
            except Invalid:
                continue
        if len(found) < len(node.entries):
            raise Invalid("upstreams")
        return found

    def _upstream(self, name: str, entry: Entry) -> UpstreamSettings:
        if not _UPSTREAM_NAME.fullmatch(name):
            self._problems.add(entry.place, "an upstream's name is up to 64 letters, digits and . _ -")
        if not isinstance(entry.value, MappingNode):
            raise self._problems.fail(entry.value.place, "expected a mapping with `provider` and the provider's keys")
        provider = entry.value.entries.get("provider")
        if provider is None:
            raise self._problems.fail(entry.place, "missing key 'provider'")
        cls = self._named("provider", provider.value, registry.provider_class, registry.PROVIDERS)
        config = self._config_class(cls, provider.value)
        if not issubclass(config, UpstreamSettings):
            raise self._problems.fail(provider.value.place, f"{cls.__name__}.Config is no kind of UpstreamSettings")
        upstream: UpstreamSettings = self._decode(config, entry.value, entry.place)
        if upstream.proxy is not None and upstream.engine == "http1":
            place = entry.value.entries["engine"].place
            raise self._problems.fail(place, "the engine http1 speaks to no proxy; leave `engine` out, or httpx2")
        return upstream

    def filters(self, entry: Entry) -> tuple[FilterEntry, ...]:
        """Raises Invalid after every filter, and the order of them all, has been looked at."""
        node = entry.value
        if not isinstance(node, SequenceNode):
            raise self._problems.fail(node.place, "expected a list of filters, outermost first")
        found: list[FilterEntry] = []
        steps: list[Step] = []
        for item in node.items:
            try:
                name, place, config = self._filter_item(item)
                cls, step = self._filter_class(name, place)
                steps.append(step)
                decoded = self._decode(self._config_class(cls, name), config, place)
            except Invalid:
                continue
            found.append(FilterEntry(name=name.text, filter=cls, config=decoded, place=str(place)))
        if len(steps) == len(node.items):  # the facts of a filter that is not known cannot be missed either
            for place, message in order_problems(steps, entry.place):
                self._problems.add(place, message)
        if len(found) < len(node.items):
            raise Invalid("filters")
        return tuple(found)

    def _filter_item(self, item: Node) -> tuple[ScalarNode, Place, Node]:
        """The name, where it stands, and the configuration of one item: `name` or `name: {…}`."""
        if isinstance(item, ScalarNode):
            return item, item.place, MappingNode(item.place, _NO_KEYS)
        if not isinstance(item, MappingNode) or len(item.entries) != 1:
            raise self._problems.fail(
                item.place, "a filter is written as its name, or as `name: {…}` with its settings"
            )
        name, entry = next(iter(item.entries.items()))
        empty = isinstance(entry.value, ScalarNode) and entry.value.empty
        config = MappingNode(entry.place, _NO_KEYS) if empty else entry.value
        return ScalarNode(entry.place, name, plain=False), entry.place, config

    def _filter_class(self, name: ScalarNode, place: Place) -> tuple[type[Any], Step]:
        cls = self._named("filter", name, registry.filter_class, registry.FILTERS)
        facts: dict[str, frozenset[str]] = {}
        for attribute in ("needs", "provides"):
            value = getattr(cls, attribute, None)
            if not isinstance(value, set | frozenset) or not all(isinstance(fact, str) for fact in value):
                message = f"the filter class {cls.__name__} has no `{attribute}`: the set of facts that it {attribute}"
                raise self._problems.fail(place, message)
            facts[attribute] = frozenset(value)
        return cls, Step(name.text, facts["needs"], facts["provides"], place)

    def _named(
        self,
        kind: str,
        node: Node,
        find: Callable[[str, Path], type[Any]],
        built_in: Mapping[str, str],
    ) -> type[Any]:
        if isinstance(node, ScalarNode) and node.broken:
            raise Invalid("a variable is missing")
        if not isinstance(node, ScalarNode) or not node.text:
            raise self._problems.fail(node.place, f"expected the name of a {kind}")
        try:
            return find(node.text, self._base)
        except registry.UnknownName as error:
            message = str(error)
            if node.names:
                known = ", ".join(sorted(built_in))
                message = (
                    f"the environment ({', '.join(node.names)}) names no {kind} that can be loaded; known: {known}"
                )
            raise self._problems.fail(node.place, message) from error

    def _config_class(self, cls: type[Any], node: Node) -> type[Any]:
        config = getattr(cls, "Config", None)
        if not isinstance(config, type) or not is_dataclass(config):
            message = f"the class {cls.__name__} has no `Config`, a dataclass of its settings"
            raise self._problems.fail(node.place, message)
        return config

    def _decode(self, config: type[Any], node: Node, owner: Place) -> Any:
        try:
            return self._decoder.dataclass(config, node, owner)
        except UnsupportedType as error:
            message = f"{shown(config.__qualname__)} has a field that no configuration can hold: {error}"
            raise self._problems.fail(owner, message) from error
