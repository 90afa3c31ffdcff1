"""A module imports only from the layers above its own, read from the syntax tree: what architecture.md's layout promises."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "xrouter"
LAYERS = (
    # What everything may use.
    "world", "secret", "ids", "wire", "events", "errors", "context", "tokens", "registry",
    # What a process knows and keeps.
    "config", "catalog", "store", "ledger", "limits", "auth",
    # Towards the providers.
    "upstream", "providers",
    # Towards the clients. `filters.base` says what a filter is given; the filters themselves come further down.
    "filters.base", "surfaces", "filters",
    # The frame.
    "observe", "retries", "keepalive", "leaving", "endpoints", "dispatch", "queries", "chain", "edge",
    # Around it.
    "front", "app", "sandbox", "console", "commands", "cli",
)  # fmt: skip


def modules() -> dict[str, ast.Module]:
    """Every module below xrouter, by its name without `xrouter.`; the package's own __init__ is left out."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if name and not name.startswith("store.migrations."):  # Alembic runs these, nothing imports them
            found[name] = ast.parse(file.read_text())
    return found


MODULES = modules()


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """What stands below `if TYPE_CHECKING:` and is never run."""
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {inner for guard in guards for statement in guard.body for inner in ast.walk(statement)}


def imported(module: str, *, types: bool = True) -> Iterator[str]:
    """What of xrouter a module imports, wherever in it the import stands; without those for types only, if told so."""
    left_out = set() if types else for_types_only(MODULES[module])
    for node in ast.walk(MODULES[module]):
        if node in left_out:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            if node.module is not None and node.module.split(".")[0] == "xrouter":
                base = node.module.removeprefix("xrouter").removeprefix(".")
                for name in node.names:
                    deeper = f"{base}.{name.name}".lstrip(".")
                    yield deeper if deeper in MODULES else base
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "xrouter":
                    yield name.name.removeprefix("xrouter").removeprefix(".")


def layer(module: str) -> int:
    """The place of the longest layer name that the module's begins with."""
    fitting = [name for name in LAYERS if module == name or module.startswith(name + ".")]
    assert fitting, f"xrouter.{module} is in no layer: give it a place in LAYERS"
    return LAYERS.index(max(fitting, key=len))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_upwards_only(module: str) -> None:
    own = layer(module)
    below = {other for other in imported(module) if other and layer(other) > own}
    assert not below, f"xrouter.{module} imports from layers below its own: {', '.join(sorted(below))}"


def test_no_two_modules_import_each_other() -> None:
    """Within a layer too: the modules can be put into one order."""
    wanted = {name: {other for other in imported(name, types=False) if other in MODULES} - {name} for name in MODULES}
    placed: set[str] = set()
    while ready := {name for name, others in wanted.items() if name not in placed and others <= placed}:
        placed |= ready
    assert placed == set(MODULES), f"imports in a circle: {', '.join(sorted(set(MODULES) - placed))}"


def providers_of(prefixes: tuple[str, ...]) -> set[str]:
    return {name for name in MODULES if name.startswith(tuple(f"providers.{prefix}" for prefix in prefixes))}


@pytest.mark.parametrize("provider", ["openai", "gigachat", "yandexgpt"])
def test_a_provider_knows_no_other_provider(provider: str) -> None:
    others = providers_of(tuple({"openai", "gigachat", "yandexgpt"} - {provider}))
    for module in providers_of((provider,)):
        assert not others & set(imported(module)), module


def test_nothing_but_the_registry_names_a_provider() -> None:
    """A new provider is one file and its line in the registry."""
    named = providers_of(("openai", "gigachat", "yandexgpt"))
    for module in set(MODULES) - named:
        assert not named & set(imported(module)), module


def test_the_sandbox_shares_nothing_with_what_it_tests() -> None:
    """An emulator that used a translator's code would share its mistakes."""
    allowed = ("sandbox", "wire", "world")
    for module in (name for name in MODULES if name.startswith("sandbox")):
        assert all(other.startswith(allowed) or not other for other in imported(module)), module


@pytest.mark.parametrize("library", ["anyio", "requests", "orjson"])
def test_no_module_imports(library: str) -> None:
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                found = [node.module]
            assert not any(each.split(".")[0] == library for each in found), f"xrouter.{name} imports {library}"


def test_the_request_path_takes_time_and_chance_as_arguments() -> None:
    """Only `world` reads the clock or the generator of chance; the rest is given a World, or uses its loop's own timers."""
    path = ("ids", "context", "catalog", "filters", "surfaces", "providers", "upstream", "limits", "ledger", "auth",
            "edge", "dispatch", "chain", "queries", "retries", "keepalive", "leaving")  # fmt: skip
    for name, tree in MODULES.items():
        if not name.startswith(path):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"time", "random"}, f"xrouter.{name}"
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in ("time", "random"), f"xrouter.{name}"
