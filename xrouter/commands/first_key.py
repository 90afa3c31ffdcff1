"""The key that a fresh gateway is tried with: made once, then found again in a file beside the store."""

from pathlib import Path
from typing import Final

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from xrouter.auth import keyformat
from xrouter.auth.issue import issue
from xrouter.commands.private_file import write_private
from xrouter.config.settings import Settings
from xrouter.ledger.direct import apply_within
from xrouter.ledger.operations import Transfer
from xrouter.secret import Secret
from xrouter.store.amounts import parse_credits
from xrouter.store.engine import StoreError, reason
from xrouter.store.key import NewKey
from xrouter.store.keys import KeyStore
from xrouter.store.migrate import open_store
from xrouter.world import World

_TIERS: Final = ("pro", "free")  # the first of these that the configuration has
_GRANT: Final = Transfer(
    kind="grant",
    account="default",
    amount_nano=parse_credits("1000"),
    reason="to try the gateway with",
    author="quickstart",
    idempotency_key="quickstart",  # once, however many first keys there will be
)


def quickstart_folder(store_url: str) -> Path:
    """`.xrouter` beside an SQLite file, or in the working directory for a database elsewhere."""
    url = make_url(store_url)
    if url.get_backend_name() == "sqlite" and url.database:
        return Path(url.database).absolute().parent / ".xrouter"
    return Path.cwd() / ".xrouter"


def key_file(store_url: str) -> Path:
    return quickstart_folder(store_url) / "first-key"


async def first_key(settings: Settings, world: World) -> Secret:
    """The key in the file if the gateway still takes it, else a new one. Raises StoreError or OSError."""
    path = key_file(settings.store)
    engine = await open_store(settings.store)
    try:
        keys = KeyStore(engine, world)
        kept = _read(path)
        if kept is not None and await _works(keys, kept, settings, world):
            return kept
        tier = next((name for name in _TIERS if name in settings.tiers), None)

        async def grant(connection: AsyncConnection) -> None:
            await apply_within(connection, world, _GRANT)

        issued = await issue(keys, NewKey(name="first key", account=_GRANT.account, tier=tier), grant)
    except SQLAlchemyError as error:
        raise StoreError(f"the store failed: {reason(error)}") from error
    finally:
        await engine.dispose()
    write_private(path, issued.secret.reveal() + "\n")
    return issued.secret


async def _works(keys: KeyStore, secret: Secret, settings: Settings, world: World) -> bool:
    key = await keys.get(keyformat.digest(secret.reveal()).hex())
    return (
        key is not None
        and key.status(int(world.now() * 1e6)) == "active"
        and (key.tier is None or key.tier in settings.tiers)
    )


def _read(path: Path) -> Secret | None:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    return Secret(text) if keyformat.is_wellformed(text) else None
