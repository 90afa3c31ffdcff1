"""An upgrade that is killed in its middle: the gateway refuses to serve, and the same command ends it well.

XROUTER_UPGRADE_KILLS=1 kills it at each statement (four minutes), instead of at every seventh.
"""

import asyncio
import os
import signal
from itertools import count
from pathlib import Path

import pytest
from kit import stores
from kit.money import assert_proven
from kit.serving import command
from sqlalchemy import event
from test_downgrades import fill, shape

from xrouter.store.engine import StoreError, create_engine
from xrouter.store.migrate import NEWEST, current, downgrade, require_current, upgrade

EARLIER = "0002"  # the oldest with money in it
STEP = int(os.environ.get("XROUTER_UPGRADE_KILLS", "7"))
CONFIG = """
store: {url}
server: {{port: 0}}
upstreams: {{local: {{provider: openai, base_url: "http://127.0.0.1:9", api_key: none}}}}
models: {{local/large: {{price: free, routes: [{{upstream: local, model: large}}]}}}}
filters: [auth, body, routing, token_count, quota]
"""


async def killed_upgrade(url: str, at: int) -> None:
    """Kill this process when it is about to send its statement number `at`; the commit counts as one."""
    engine = create_engine(url)
    numbers = count(1)

    def look(*statement: object) -> None:
        if next(numbers) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine.sync_engine, "before_cursor_execute", look)
    event.listen(engine.sync_engine, "commit", look)
    await upgrade(engine)
    await engine.dispose()


def dies(url: str, at: int) -> bool:
    """Whether an upgrade in a process of its own came to that statement, and so to its end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.run(killed_upgrade(url, at))
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


async def refused_as(url: str) -> str:
    engine = create_engine(url)
    with pytest.raises(StoreError) as refusal:
        await require_current(engine)
    await engine.dispose()
    return str(refusal.value)


async def earlier_store(url: str, folder: Path) -> None:
    engine = create_engine(url)
    await upgrade(engine)
    await fill(url, folder)
    await downgrade(engine, EARLIER)
    await engine.dispose()


async def proven(url: str) -> None:
    engine = create_engine(url)
    assert await current(engine) == NEWEST
    await assert_proven(engine)
    await engine.dispose()


@pytest.mark.parametrize("found", [None, EARLIER])
def test_killed_at_any_statement_it_leaves_the_schema_that_it_found(tmp_path: Path, found: str | None) -> None:
    """Fails where a migration commits on its own: a store between two versions, that no command brings on."""
    url = stores.current.empty_url(tmp_path / "store.db")
    if found:
        asyncio.run(earlier_store(url, tmp_path))
    before = shape(url)
    for kills, at in enumerate(count(1, STEP)):
        if not dies(url, at):
            break
        assert f"has schema {found or 'none'}, this version needs {NEWEST}; run `xrouter db upgrade" in asyncio.run(
            refused_as(url)
        ), at
        if kills % 10 == 0:
            assert shape(url) == before, at
    assert at > 20
    asyncio.run(proven(url))


def test_the_gateway_refuses_to_serve_and_says_what_to_run(tmp_path: Path) -> None:
    url = stores.current.empty_url(tmp_path / "store.db")
    asyncio.run(earlier_store(url, tmp_path))
    config = tmp_path / "xrouter.yaml"
    config.write_text(CONFIG.format(url=url))
    assert dies(url, 25)
    served = command({}, "serve", "-c", str(config))
    assert served.returncode != 0
    assert f"has schema {EARLIER}, this version needs {NEWEST}; run `xrouter db upgrade -c FILE`" in served.stderr
    assert command({}, "db", "upgrade", "-c", str(config)).returncode == 0
    assert command({}, "db", "check", "-c", str(config)).returncode == 0
