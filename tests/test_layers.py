"""A module imports only from the lines above its own (docs/architecture.md, "The layers")."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    "world", "secret", "wire", "ids", "errors", "events", "context", "tokens", "retries", "timers",
    "registry", "config", "catalog",
    "store", "auth", "ledger", "limits",
    "upstream",
    "providers",
    "routing",
    "filters.base",  # what a filter is given: the parts of a running gateway
    "endpoints", "surfaces",
    "filters",
    "keepalive", "leaving", "observe", "queries", "dispatch", "chain", "edge",
    "front",
    "sandbox",
    "waiting", "waiting_room", "workers.messages", "workers.fleet", "explain", "admin", "running", "app", "workers",
    "commands",
    "imports", "cli",
)  # fmt: skip
FILES = [file for file in sorted((ROOT / "xrouter").rglob("*.py")) if file != ROOT / "xrouter" / "__init__.py"]


def layer(module: str) -> str:
    """The most exact line that `module` belongs to."""
    inner = module.removeprefix("xrouter.")
    lines = [line for line in LAYERS if inner == line or inner.startswith(line + ".")]
    assert lines, f"{module} is on no line of LAYERS"
    return max(lines, key=len)


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "xrouter":
            yield from (f"xrouter.{name.name}" for name in node.names if not name.name.startswith("__"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("xrouter."):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("xrouter."))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_module_imports_only_from_above(file: Path) -> None:
    own = layer(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))

    below = [name for name in imports(file) if LAYERS.index(layer(name)) > LAYERS.index(own)]

    assert not below, f"{own} imports from below: {', '.join(below)}"


def test_every_line_is_a_module() -> None:
    for line in LAYERS:
        place = ROOT / "xrouter" / line.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").is_file(), line
