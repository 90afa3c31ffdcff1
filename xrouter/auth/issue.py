"""Making keys: where a secret comes into being, to be shown once and kept nowhere."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from xrouter.auth import keyformat
from xrouter.secret import Secret
from xrouter.store.key import Key, NewKey
from xrouter.store.keys import KeyStore


@dataclass(frozen=True, slots=True)
class IssuedKey:
    secret: Secret
    key: Key


async def issue(
    store: KeyStore,
    new: NewKey,
    before_commit: Callable[[AsyncConnection], Awaitable[None]] | None = None,
    *,
    secret: Secret | None = None,
) -> IssuedKey:
    """Make a key. `before_commit` as in `KeyStore.create`; `secret` if it had to be known before: a new one of its tier."""
    secret = secret or keyformat.new_secret(new.tier)
    text = secret.reveal()
    key = await store.create(
        new, hash=keyformat.digest(text).hex(), label=keyformat.label(text), before_commit=before_commit
    )
    return IssuedKey(secret, key)


async def reissue(store: KeyStore, old: Key, *, grace_s: float) -> IssuedKey:
    """Make a new secret for `old`, which ends after `grace_s` seconds. See `KeyStore.rotate`."""
    secret = keyformat.new_secret(old.tier)
    text = secret.reveal()
    key = await store.rotate(
        old.hash, new_hash=keyformat.digest(text).hex(), new_label=keyformat.label(text), grace_s=grace_s
    )
    return IssuedKey(secret, key)
