"""What an operator installs: the wheel's files, its direct dependencies, and what the commands import."""

import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
MOST_DEPENDENCIES = 13
HEAVY = (
    "aiosqlite", "alembic", "asyncio", "asyncpg", "cryptography", "httpx2", "joserfc", "msgspec", "prometheus_client",
    "redis", "sqlalchemy", "starlette", "uvicorn", "uvloop", "yaml",
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return zipfile.ZipFile(path)


def tracked() -> set[str]:
    """The package's files as git knows them; in a tree without git, those on disk."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "xrouter"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        return {name for name in listed.stdout.split() if (ROOT / name).exists()}
    files = (path for path in (ROOT / "xrouter").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    package = {name for name in names if name.startswith("xrouter/")}

    assert package == tracked()
    assert {name.partition("/")[0] for name in names - package} == {next(iter(names - package)).partition("/")[0]}
    assert not [name for name in names if name.endswith((".pth", ".pyc", ".db"))]


def test_the_wheel_holds_what_is_not_python(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())

    assert "xrouter/store/migrations/script.py.mako" in names
    assert "xrouter/store/migrations/versions/r0001_keys.py" in names
    assert "xrouter/limits/limits.lua" in names
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_the_wheel_installs_one_command(wheel: zipfile.ZipFile) -> None:
    (scripts,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))

    assert wheel.read(scripts).decode().split("\n") == ["[console_scripts]", "xrouter = xrouter.cli:main", ""]


def test_the_distribution_is_called_xrouter_gateway_and_needs_little(wheel: zipfile.ZipFile) -> None:
    (place,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    metadata = Parser().parsestr(wheel.read(place).decode())
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]

    assert metadata["Name"] == "xrouter-gateway"
    assert metadata["License-Expression"] == "MIT"
    assert len(needed) <= MOST_DEPENDENCIES
    assert all("<" in line for line in needed), "a dependency without a bound breaks old releases one day"


@pytest.mark.parametrize("lock", ["run", "test"])
def test_every_locked_package_has_hashes_and_no_place(lock: str) -> None:
    text = (ROOT / ".ci" / f"requirements-{lock}.lock").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    packages = [line for line in lines if not line.startswith(" ")]

    assert all("==" in line and line.endswith("\\") for line in packages)
    assert len([line for line in lines if "--hash=sha256:" in line]) == len(lines) - len(packages)
    assert "://" not in text


def test_the_locks_agree_and_have_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run, test = (locked(lock) for lock in ("run", "test"))

    assert run.items() <= test.items()
    assert {name_of(line) for line in project["project"]["dependencies"]} <= run.keys()
    assert {name_of(line) for group in project["dependency-groups"].values() for line in group} <= test.keys()


def locked(lock: str) -> dict[str, str]:
    lines = (ROOT / ".ci" / f"requirements-{lock}.lock").read_text().splitlines()
    pairs = (line.removesuffix(" \\").split("==") for line in lines if "==" in line and line[0] not in " #")
    return {name.split(";")[0].strip(): version for name, version in pairs}


def name_of(requirement: str) -> str:
    name = requirement
    for end in "[<>=! ":
        name = name.partition(end)[0]
    return name.lower().replace("_", "-")


def imported(program: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after `program`."""
    report = f"{program}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    ended = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(ended.stdout.splitlines()[-1].split())


def test_the_command_line_itself_imports_nothing_heavy() -> None:
    assert imported("import xrouter.cli").isdisjoint(HEAVY)


def test_check_needs_neither_server_nor_sandbox() -> None:
    program = "import sys; import xrouter.cli; sys.argv = ['xrouter']; import xrouter.commands.check"

    assert imported(program).isdisjoint({"alembic", "uvicorn", "redis", "starlette"})
