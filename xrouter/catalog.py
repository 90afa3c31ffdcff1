"""The models that clients may ask for: ids, aliases and variants, each resolved to the places that serve it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from xrouter.config.settings import ModelSettings, Settings
from xrouter.context import Principal, Target


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One servable model. `id` is its public name (`author/slug`, with `:variant` where it is one)."""

    id: str
    settings: ModelSettings
    targets: tuple[Target, ...]
    weights: tuple[int, ...]
    variant: str | None = None

    @property
    def name(self) -> str:
        name = self.settings.name or self.id.partition(":")[0]
        return f"{name} ({self.variant})" if self.variant else name


class Catalog:
    """Every name is matched exactly: no case folding and no Unicode normalisation, so one name means one model (F35)."""

    def __init__(self, settings: Settings) -> None:
        self._entries: dict[str, CatalogEntry] = {}
        self._names: dict[str, CatalogEntry] = {}
        for model_id, model in settings.models.items():
            self._add(model_id, model, None, None)
            for variant, branch in model.variants.items():
                self._add(model_id, model, variant, branch)

    def _add(self, model_id: str, model: ModelSettings, variant: str | None, branch: str | None) -> None:
        suffix = f":{variant}" if variant else ""
        public = model_id + suffix
        targets = tuple(
            Target(
                upstream=route.upstream,
                model=f"{route.model}/{branch}" if branch else route.model,
                public_model=public,
                surface=route.surface,
            )
            for route in model.routes
        )
        entry = CatalogEntry(public, model, targets, tuple(route.weight for route in model.routes), variant)
        self._entries[public] = entry
        for name in (model_id, *model.aliases):
            if not (suffix and ":" in name):  # an alias that names a variant has no variants of its own
                self._names.setdefault(name + suffix, entry)

    def resolve(self, name: str) -> CatalogEntry | None:
        """The model called `name`: an id, an alias, or either with a variant's suffix."""
        return self._names.get(name)

    def __iter__(self) -> Iterator[CatalogEntry]:
        return iter(self._entries.values())

    def names(self) -> Iterable[tuple[str, CatalogEntry]]:
        """Every name that can be asked for, with what it means."""
        return self._names.items()

    def places(self) -> set[tuple[str, str]]:
        """Every upstream with each of its models that a route names."""
        return {(target.upstream, target.model) for entry in self for target in entry.targets}

    def entries(self) -> Mapping[str, CatalogEntry]:
        """By public id."""
        return self._entries


def may_use(principal: Principal, entry: CatalogEntry) -> bool:
    """Whether the key's scope has this model: by id, by the id without its variant, or by the author as `author/*`."""
    allowed = principal.models
    if allowed is None:
        return True
    base = entry.id.partition(":")[0]
    return entry.id in allowed or base in allowed or base.partition("/")[0] + "/*" in allowed
