"""What the imports of a command do without, for the sake of its start and memory: the collector, and SQLAlchemy's ORM."""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:
    Loader = MetaPathFinder = object  # base classes that do nothing here, and cost 15 ms

_PACKAGE: Final = "sqlalchemy.ext.asyncio"
_USED: Final = ("AsyncConnection", "AsyncEngine", "create_async_engine")  # of its module `engine`


@contextmanager
def lasting_imports() -> Iterator[None]:
    """What is imported meanwhile lives for ever, so the collector looks at it neither now nor later."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds SQLAlchemy's asyncio package, of which the gateway uses the engine and not the sessions of the ORM."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _PACKAGE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _EngineFirst(spec.loader)
        return spec


class _EngineFirst(Loader):
    """Loads the package's engine, and the whole package once anything else is asked of it, as a plugin may do."""

    def __init__(self, whole: "Loader") -> None:
        self._whole = whole

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._whole.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        def load_whole(name: str) -> Any:
            del module.__getattr__
            self._whole.exec_module(module)
            return getattr(module, name)

        module.__getattr__ = load_whole  # type: ignore[method-assign]
        import_module(f"{_PACKAGE}.exc")  # or else the engine's own `from . import exc` would ask for the whole
        engine = import_module(f"{_PACKAGE}.engine")
        for name in _USED:
            setattr(module, name, getattr(engine, name))
