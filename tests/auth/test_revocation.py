"""Two processes on one database, and real time: what one of them revokes, the other refuses within a second."""

import asyncio
import sys
import time
from pathlib import Path

import pytest
from kit.keys import make_key, write_configuration

from xrouter.auth.keyring import KeyRing
from xrouter.config.load import load
from xrouter.errors import Unauthorized
from xrouter.store.migrate import open_store
from xrouter.world import RealWorld

COMMAND = (
    "import argparse, sys\n"
    "from xrouter.commands import keys\n"
    "parser = argparse.ArgumentParser()\n"
    "keys.add_parser(parser.add_subparsers())\n"
    "args = parser.parse_args()\n"
    "sys.exit(args.run(args))\n"
)


async def keys_command(*arguments: str) -> tuple[int | None, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        COMMAND,
        "keys",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    return process.returncode, out, error


async def use_for(seconds: float, ring: KeyRing, secret: str) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await ring.authenticate(secret, "192.0.2.1")
        await asyncio.sleep(0.01)


async def test_a_key_revoked_by_another_process_is_refused_within_a_second(tmp_path: Path) -> None:
    configuration, world = write_configuration(tmp_path), RealWorld()
    engine = await open_store(load(configuration, {}).store)
    ring = KeyRing(engine, world)
    await ring.start()
    issued = await make_key(engine, world)
    await ring.authenticate(issued.secret.reveal(), "192.0.2.1")

    code, _, error = await keys_command("revoke", "-c", str(configuration), issued.key.hash[:8])
    revoked_at = time.monotonic()
    assert (code, error) == (0, b"")
    with pytest.raises(Unauthorized):
        await use_for(5.0, ring, issued.secret.reveal())
    assert time.monotonic() - revoked_at < 1
    assert ring.lag_s < 1
    await ring.aclose()
    await engine.dispose()
