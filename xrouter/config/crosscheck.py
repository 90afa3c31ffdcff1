"""What must hold between the parts of a configuration.

Models are checked on the tree and not on decoded values, so that one wrong type does not hide a wrong name beside it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Final

from xrouter.config.decode import shown
from xrouter.config.document import Entry, MappingNode, Node, ScalarNode, SequenceNode
from xrouter.config.problems import Place, Problems
from xrouter.config.settings import Server, Settings

_MODEL_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[A-Za-z0-9][\w.-]*)?", re.ASCII)
_ALIAS: Final = re.compile(r"[A-Za-z0-9][\w.:/@-]{0,199}", re.ASCII)
_VARIANT: Final = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_TIER: Final = re.compile(r"[a-z0-9_]+")
_DEFAULT_VARIANT: Final = "latest"
_MOST_NAMES: Final = 20  # that one message tells
_DEFAULT_STORE: Final = next(field.default for field in fields(Settings) if field.name == "store")


def check_models(root: MappingNode, problems: Problems) -> None:
    """Each model's id, aliases, variants, routes and price."""
    upstreams = _child(root, "upstreams")
    known = upstreams.entries.keys() if isinstance(upstreams, MappingNode) else None
    models = _child(root, "models")
    names = _Names(problems)
    for model_id, entry in models.entries.items() if isinstance(models, MappingNode) else ():
        if not _MODEL_ID.fullmatch(model_id):
            problems.add(entry.place, f"a model's id looks like author/slug, {shown(model_id)} does not")
        if not isinstance(entry.value, MappingNode):
            continue
        names.add_model(model_id, entry.place, entry.value)
        price = entry.value.entries.get("price")
        if price is None or _left_empty(price.value):
            place = price.value.place if price else entry.place
            problems.add(place, f"{model_id} has no price; a model that costs nothing says `price: free`")
        if known is not None:
            for node in _route_upstreams(entry.value):
                if node.text not in known:
                    named = f"({', '.join(node.names)})" if node.names else shown(node.text)
                    problems.add(node.place, f"unknown upstream {named}; known: {', '.join(sorted(known)) or 'none'}")


def check_tiers(root: MappingNode, problems: Problems) -> None:
    """A tier's name stands in its keys (`xr-<tier>-…`), so it has no hyphen; what it allows is there to be allowed."""
    tiers = _child(root, "tiers")
    for name, entry in tiers.entries.items() if isinstance(tiers, MappingNode) else ():
        if not _TIER.fullmatch(name):
            problems.add(entry.place, "a tier's name is small letters, digits and _: it is a part of its keys")
        _check_known(entry.value, "upstreams", _child(root, "upstreams"), problems)
        _check_known(entry.value, "models", _child(root, "models"), problems)


def _check_known(tier: Node, key: str, section: Node | None, problems: Problems) -> None:
    """The names in a tier's list `key` stand in `section`; a variant of a model, or all of an author's, do too."""
    if not isinstance(section, MappingNode):
        return
    known = set(section.entries)
    if key == "models":
        known |= {f"{model_id.partition('/')[0]}/*" for model_id in section.entries}
        for model_id, entry in section.entries.items():
            variants = _child(entry.value, "variants")
            known |= {f"{model_id}:{suffix}" for suffix in _keys(variants)}
    for node in _scalars(_child(tier, key)):
        if not node.empty and node.text not in known:
            problems.add(node.place, f"unknown {key[:-1]} {_quoted(node)}; known: {_few(section.entries)}")


def check_workers(root: MappingNode, values: Mapping[str, Any], problems: Problems) -> None:
    """More than one worker must count together. `values` are those sections that could be decoded."""
    server = values.get("server")
    section = _child(root, "server")
    workers = _child(section, "workers")
    if not isinstance(server, Server) or server.workers == 1 or workers is None:
        return
    if _left_empty(_child(root, "redis")):
        problems.add(workers.place, workers_fault(server.workers))


def workers_fault(workers: int) -> str:
    """What is wrong with more than one worker and no Redis."""
    return f"{workers} workers need `redis`: that is where they count together"


class _Names:
    """The names by which clients ask for models: ids and aliases, each also with every variant of its model."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._owners: dict[str, tuple[str, Place]] = {}

    def add_model(self, model_id: str, place: Place, model: MappingNode) -> None:
        variants = self._variants(model)
        bases: dict[str, Place] = {model_id: place}
        for node in _scalars(_child(model, "aliases")):
            if not _ALIAS.fullmatch(node.text):
                self._problems.add(node.place, "an alias is letters, digits and . _ - : / @")
            elif node.text in bases:
                self._problems.add(node.place, f"{_quoted(node)} names this model already")
            else:
                bases[node.text] = node.place
        for base, base_place in bases.items():
            self._claim(base, model_id, base_place)
            for variant, variant_place in variants.items():
                name = f"{base}:{variant}"
                if name not in bases:
                    self._claim(name, model_id, variant_place)
                elif variant != _DEFAULT_VARIANT:
                    self._problems.add(bases[name], f"the alias hides the variant {shown(variant)} of {shown(base)}")

    def _variants(self, model: MappingNode) -> dict[str, Place]:
        node = _child(model, "variants")
        found: dict[str, Place] = {}
        for name, entry in node.entries.items() if isinstance(node, MappingNode) else ():
            if _VARIANT.fullmatch(name):
                found[name] = entry.place
            else:
                self._problems.add(entry.place, "a variant's name is letters, digits and . _ -")
            if isinstance(entry.value, ScalarNode) and not entry.value.text:
                self._problems.add(entry.value.place, "a variant names a branch of the upstream's model")
        return found

    def _claim(self, name: str, model_id: str, place: Place) -> None:
        owner, first = self._owners.setdefault(name, (model_id, place))
        if owner != model_id:
            where = f"{first.line}:{first.column}"
            self._problems.add(place, f"the name {shown(name)} already stands for {owner}, at {where}")


def _route_upstreams(model: MappingNode) -> Iterator[ScalarNode]:
    routes = _child(model, "routes")
    for route in routes.items if isinstance(routes, SequenceNode) else ():
        upstream = _child(route, "upstream")
        if isinstance(upstream, ScalarNode) and not upstream.empty and not upstream.broken:
            yield upstream


def _left_empty(node: Node | None) -> bool:
    return node is None or (isinstance(node, ScalarNode) and (node.empty or not node.text))


def _scalars(node: Node | None) -> Iterator[ScalarNode]:
    if isinstance(node, SequenceNode):
        yield from (item for item in node.items if isinstance(item, ScalarNode) and not item.broken)


def _child(node: Node | None, name: str) -> Node | None:
    entry: Entry | None = node.entries.get(name) if isinstance(node, MappingNode) else None
    return entry.value if entry else None


def _keys(node: Node | None) -> Iterable[str]:
    return node.entries if isinstance(node, MappingNode) else ()


def _few(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:_MOST_NAMES]) or "none"


def _quoted(node: ScalarNode) -> str:
    return f"the environment's value ({', '.join(node.names)})" if node.names else shown(node.text)
