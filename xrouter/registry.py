"""Configured name → class: built-in names, dotted paths of an operator's own files, entry points of installed packages.

Built-ins are named by path and imported when first used, so that a configuration pays only for what it uses.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

FILTERS: Mapping[str, str] = {
    "auth": "xrouter.filters.auth:Auth",
    "body": "xrouter.filters.body:Body",
    "quota": "xrouter.filters.quota:Quota",
    "rate_limit": "xrouter.filters.rate_limit:RateLimit",
    "routing": "xrouter.filters.routing:Routing",
    "token_count": "xrouter.filters.token_count:TokenCount",
}
PROVIDERS: Mapping[str, str] = {
    "gigachat": "xrouter.providers.gigachat:GigaChat",
    "openai": "xrouter.providers.openai:OpenAI",
    "yandexgpt": "xrouter.providers.yandexgpt:YandexGPT",
}


class UnknownName(Exception):
    """The message names the known ones."""


def filter_class(name: str, base: Path | None = None) -> type[Any]:
    """The filter called `name`: built-in, entry point of the group `xrouter.filters`, or `package.module:Class`.

    `base` is the folder of the configuration and of its `plugins/`: a dotted path is looked up there first, then below the
    working directory. None: it has been loaded before. Raises UnknownName.
    """
    return _resolve("filter", name, FILTERS, base)


def provider_class(name: str, base: Path | None = None) -> type[Any]:
    """The provider called `name`: built-in, entry point of the group `xrouter.providers`, or a dotted path."""
    return _resolve("provider", name, PROVIDERS, base)


def _resolve(kind: str, name: str, built_in: Mapping[str, str], base: Path | None) -> type[Any]:
    if name in built_in:
        return _load(kind, built_in[name])
    if ":" in name:
        with _importable(base):
            return _load(kind, name)
    installed = {point.name: point for point in entry_points(group=f"xrouter.{kind}s")}
    if name in installed:
        try:
            loaded = installed[name].load()
        except Exception as error:
            raise UnknownName(f"{kind} {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
        return _class(kind, name, loaded)
    known = ", ".join(sorted({*built_in, *installed}))
    raise UnknownName(f"unknown {kind} {name!r}; known: {known}, or module:Class of your own")


def _load(kind: str, path: str) -> type[Any]:
    module_name, _, attribute = path.partition(":")
    try:
        loaded = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # an operator's file may fail in any way; every one is a problem of this line of YAML
        raise UnknownName(f"{kind} {path!r} cannot be loaded: {type(error).__name__}: {error}") from error
    return _class(kind, path, loaded)


def _class(kind: str, name: str, loaded: object) -> type[Any]:
    if not isinstance(loaded, type):
        raise UnknownName(f"{kind} {name!r} is not a class")
    return loaded


@contextmanager
def _importable(base: Path | None) -> Iterator[None]:
    """Look for an operator's modules beside the configuration, in its parent and in the working directory."""
    folders = (base, base.parent, Path.cwd()) if base else (Path.cwd(),)
    added = [str(folder) for folder in folders if str(folder) not in sys.path]
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)
