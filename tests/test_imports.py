"""What a serving process has imported. What its configuration does not use costs it neither start nor memory."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xrouter.store.migrate import open_store

CONFIG = """
store: ${STORE}
upstreams: {up: {provider: openai, base_url: "http://127.0.0.1:9/v1", api_key: secret}}
models: {vendor/model: {routes: [{upstream: up, model: model}], price: {input: "1", output: "1"}}}
filters: [auth, rate_limit, body, routing, token_count, quota]
"""
SERVE = """
import json, sys
from xrouter.cli import main
code = main(["serve", "-c", sys.argv[1], "--port", "0", "--json"])
print(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""
UNUSED = (
    "alembic", "asyncpg", "cryptography", "httpx2", "joserfc", "redis", "starlette",
    "sqlalchemy.dialects.postgresql", "sqlalchemy.orm",
    "xrouter.admin", "xrouter.explain", "xrouter.sandbox", "xrouter.store.pg_engine", "xrouter.workers.supervisor",
)  # fmt: skip


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The modules of `xrouter serve` on a SQLite store, from its start to its stop."""
    folder = tmp_path_factory.mktemp("imports")
    url = f"sqlite:///{folder}/x.db"

    async def make() -> None:
        await (await open_store(url)).dispose()

    asyncio.run(make())
    config = Path(folder) / "xrouter.yaml"
    config.write_text(CONFIG.replace("${STORE}", url))
    serve = [sys.executable, "-c", SERVE, str(config)]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["url"]
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    modules: list[str] = json.loads(told)
    return modules


@pytest.mark.parametrize("package", UNUSED)
def test_serving_does_not_import(package: str, serving: list[str]) -> None:
    assert not [name for name in serving if name == package or name.startswith(f"{package}.")]


def test_what_a_command_imports_is_spared_by_the_collector() -> None:
    program = """
import gc
from xrouter.imports import lasting_imports
before = gc.get_freeze_count()
with lasting_imports():
    assert not gc.isenabled()
    import xrouter.config.settings
print(gc.isenabled(), gc.get_freeze_count() - before > 1000)
"""
    assert answer(program) == "True True"


def test_a_plugin_still_has_all_of_sqlalchemy() -> None:
    program = """
import sys
from xrouter.imports import lasting_imports
with lasting_imports():
    from sqlalchemy.ext.asyncio import AsyncEngine
    assert "sqlalchemy.orm" not in sys.modules
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
import sqlalchemy.ext.asyncio as package
print(package.AsyncEngine is AsyncEngine, AsyncSession.__name__, hasattr(package, "no_such_name"))
"""
    assert answer(program) == "True AsyncSession False"


def answer(program: str) -> str:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return ended.stdout.strip()
