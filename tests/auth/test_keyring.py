import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from kit.keys import EPOCH_S, HandWorld, make_key
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.auth import keyformat
from xrouter.auth.keyring import KeyRing
from xrouter.context import Principal
from xrouter.errors import Forbidden, RateLimited, StoreUnavailable, Unauthorized, XRouterError
from xrouter.store.engine import writing
from xrouter.store.key import Key, KeyChanges, NewKey
from xrouter.store.keys import KeyStore

IP = "192.0.2.7"


@pytest.fixture
async def ring(engine: AsyncEngine, world: HandWorld) -> AsyncIterator[KeyRing]:
    ring = KeyRing(engine, world)
    await ring.start()
    yield ring
    await ring.aclose()


@pytest.fixture
def store(engine: AsyncEngine, world: HandWorld) -> KeyStore:
    return KeyStore(engine, world)


async def poll(world: HandWorld) -> None:
    """Let the ring read the revision once."""
    await world.asleep.wait()
    world.advance(0.5)
    await world.asleep.wait()


async def refusal(ring: KeyRing, secret: str, client_ip: str = IP) -> XRouterError:
    with pytest.raises(XRouterError) as caught:
        await ring.authenticate(secret, client_ip)
    return caught.value


async def test_a_key_is_its_holder(ring: KeyRing, engine: AsyncEngine, world: HandWorld) -> None:
    issued = await make_key(
        engine, world, NewKey(name="n", account="acme", tier="pro", models=("a/b",), management=True)
    )
    principal = await ring.authenticate(issued.secret.reveal(), IP)
    assert principal == Principal(
        key_id=issued.key.hash, account="acme", name="n", tier="pro", models=frozenset({"a/b"}), management=True
    )
    assert await ring.authenticate(issued.secret.reveal(), IP) is principal
    assert ring.look_ups == 1


async def test_every_refused_secret_gets_the_same_answer_and_the_log_the_reason(
    ring: KeyRing, engine: AsyncEngine, world: HandWorld, store: KeyStore
) -> None:
    revoked, disabled = await make_key(engine, world), await make_key(engine, world)
    expired = await make_key(engine, world, NewKey(name="x", expires_at_us=int(EPOCH_S * 1e6) + 1))
    await store.revoke(revoked.key.hash)
    await store.update(disabled.key.hash, KeyChanges(disabled=True))
    world.wall_s += 1
    secrets = {
        "unknown key": keyformat.new_secret("free").reveal(),
        "not the form of a key": "sk-something",
        "expired key": expired.secret.reveal(),
        "revoked key": revoked.secret.reveal(),
        "disabled key": disabled.secret.reveal(),
    }
    for _ in range(2):  # from the database, then from memory
        refusals = {reason: await refusal(ring, secret) for reason, secret in secrets.items()}
        assert {reason: error.detail for reason, error in refusals.items()} == {reason: reason for reason in secrets}
        assert {type(error) for error in refusals.values()} == {Unauthorized}
        assert len({error.encoded() for error in refusals.values()}) == 1
    assert ring.look_ups == 4


async def test_a_key_ends_at_its_very_expiry(ring: KeyRing, engine: AsyncEngine, world: HandWorld) -> None:
    expires_at_us = int((EPOCH_S + 10) * 1e6)
    issued = await make_key(engine, world, NewKey(name="x", expires_at_us=expires_at_us))
    world.wall_s = (expires_at_us - 1) / 1e6
    await ring.authenticate(issued.secret.reveal(), IP)
    world.wall_s = expires_at_us / 1e6
    assert (await refusal(ring, issued.secret.reveal())).detail == "expired key"


@pytest.mark.parametrize(
    ("networks", "client_ip", "allowed"),
    [
        (None, "", True),
        (("192.0.2.0/24",), "192.0.2.255", True),
        (("192.0.2.0/24",), "192.0.3.0", False),
        (("10.0.0.1", "192.0.2.0/24"), "10.0.0.1", True),
        (("192.0.2.0/24",), "::ffff:192.0.2.1", True),
        (("2001:db8::/32",), "2001:db8::1", True),
        (("2001:db8::/32",), "192.0.2.1", False),
        (("0.0.0.0/0",), "2001:db8::1", False),
        (("0.0.0.0/0", "::/0"), "", False),
        (("0.0.0.0/0",), "not-an-address", False),
        (("0.0.0.0/0",), "192.0.2.1, 10.0.0.1", False),
    ],
)
async def test_a_key_is_used_from_its_networks_only(
    ring: KeyRing,
    engine: AsyncEngine,
    world: HandWorld,
    networks: tuple[str, ...] | None,
    client_ip: str,
    allowed: bool,
) -> None:
    issued = await make_key(engine, world, NewKey(name="x", networks=networks))
    if allowed:
        await ring.authenticate(issued.secret.reveal(), client_ip)
    else:
        assert isinstance(await refusal(ring, issued.secret.reveal(), client_ip), Forbidden)


async def test_changes_hold_after_the_next_poll(
    ring: KeyRing, engine: AsyncEngine, world: HandWorld, store: KeyStore
) -> None:
    issued, other = await make_key(engine, world), await make_key(engine, world)
    for each in (issued, other):
        await ring.authenticate(each.secret.reveal(), IP)
    await store.update(issued.key.hash, KeyChanges(tier="pro"))
    await poll(world)
    assert (await ring.authenticate(issued.secret.reveal(), IP)).tier == "pro"
    await store.revoke(issued.key.hash)
    await poll(world)
    assert (await refusal(ring, issued.secret.reveal())).detail == "revoked key"
    await store.delete(issued.key.hash)
    await poll(world)
    read = ring.look_ups
    for _ in range(3):
        assert (await refusal(ring, issued.secret.reveal())).detail == "unknown key"
    assert ring.look_ups == read + 1
    await ring.authenticate(other.secret.reveal(), IP)


async def test_refresh_makes_a_change_hold_at_once(
    ring: KeyRing, engine: AsyncEngine, world: HandWorld, store: KeyStore
) -> None:
    issued = await make_key(engine, world)
    await ring.authenticate(issued.secret.reveal(), IP)
    await store.revoke(issued.key.hash)
    await ring.refresh()
    assert (await refusal(ring, issued.secret.reveal())).detail == "revoked key"


async def test_a_secret_refused_once_is_not_refused_for_ever(
    ring: KeyRing, engine: AsyncEngine, world: HandWorld, store: KeyStore
) -> None:
    secret = keyformat.new_secret(None).reveal()
    assert isinstance(await refusal(ring, secret), Unauthorized)
    await store.create(NewKey(name="restored"), hash=keyformat.digest(secret).hex(), label="l")
    await poll(world)
    assert (await ring.authenticate(secret, IP)).name == "restored"


class Gate:
    """Holds a ring's reads of the database, done but not yet handed over."""

    def __init__(self, ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()
        self._get = ring._store.get
        monkeypatch.setattr(ring._store, "get", self._held)

    async def _held(self, hash: str) -> Key | None:
        key = await self._get(hash)
        self.reached.set()
        await self.open.wait()
        return key


async def test_a_read_that_a_revocation_overtook_is_not_believed(
    ring: KeyRing, engine: AsyncEngine, world: HandWorld, store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await make_key(engine, world)
    gate = Gate(ring, monkeypatch)
    early = asyncio.create_task(ring.authenticate(issued.secret.reveal(), IP))
    await gate.reached.wait()
    await store.revoke(issued.key.hash)
    await ring.refresh()
    late = asyncio.create_task(ring.authenticate(issued.secret.reveal(), IP))
    await asyncio.sleep(0)
    gate.open.set()
    await early  # it asked before the revocation was known
    with pytest.raises(Unauthorized):
        await late
    assert (await refusal(ring, issued.secret.reveal())).detail == "revoked key"


async def test_a_read_that_ends_after_a_revocation_is_known_leaves_nothing_behind(
    ring: KeyRing, engine: AsyncEngine, world: HandWorld, store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await make_key(engine, world)
    gate = Gate(ring, monkeypatch)
    early = asyncio.create_task(ring.authenticate(issued.secret.reveal(), IP))
    await gate.reached.wait()
    await store.revoke(issued.key.hash)
    await ring.refresh()
    gate.open.set()
    await early
    assert (await refusal(ring, issued.secret.reveal())).detail == "revoked key"


async def test_one_read_serves_all_that_wait_and_outlives_each_of_them(
    ring: KeyRing, engine: AsyncEngine, world: HandWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await make_key(engine, world)
    gate = Gate(ring, monkeypatch)
    waiting = [asyncio.create_task(ring.authenticate(issued.secret.reveal(), IP)) for _ in range(50)]
    await gate.reached.wait()
    waiting[0].cancel()
    gate.open.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert {type(result) for result in results[1:]} == {Principal}
    assert ring.look_ups == 1


async def test_a_read_that_all_have_left_still_ends_quietly(
    ring: KeyRing, engine: AsyncEngine, world: HandWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await make_key(engine, world)
    gate = Gate(ring, monkeypatch)
    only = asyncio.create_task(ring.authenticate(issued.secret.reveal(), IP))
    await gate.reached.wait()
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    gate.open.set()
    await ring.authenticate(issued.secret.reveal(), IP)
    assert ring.look_ups == 1


async def test_closing_ends_reads_and_the_follower(
    engine: AsyncEngine, world: HandWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = KeyRing(engine, world)
    await ring.start()
    issued = await make_key(engine, world)
    gate = Gate(ring, monkeypatch)
    waiting = asyncio.create_task(ring.authenticate(issued.secret.reveal(), IP))
    await gate.reached.wait()
    await ring.aclose()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_memory_is_bounded_and_guesses_push_out_no_key(engine: AsyncEngine, world: HandWorld) -> None:
    ring = KeyRing(engine, world, capacity=5)
    await ring.start()
    keys = [await make_key(engine, world) for _ in range(5)]
    for issued in keys:
        await ring.authenticate(issued.secret.reveal(), IP)
    for _ in range(20):
        await refusal(ring, keyformat.new_secret(None).reveal())
    read = ring.look_ups
    for issued in keys:
        await ring.authenticate(issued.secret.reveal(), IP)
    assert ring.look_ups == read
    await ring.authenticate((await make_key(engine, world)).secret.reveal(), IP)
    assert (len(ring._keys), len(ring._strangers)) == (5, 5)
    await ring.aclose()


async def test_a_flood_of_guesses_costs_the_database_little_and_known_keys_nothing(
    ring: KeyRing, engine: AsyncEngine, world: HandWorld, store: KeyStore
) -> None:
    used, unused = await make_key(engine, world), await make_key(engine, world)
    await ring.authenticate(used.secret.reveal(), IP)
    refused = [await refusal(ring, keyformat.new_secret(None).reveal()) for _ in range(2000)]
    assert ring.look_ups == 1 + 100
    assert [type(error) for error in refused] == [Unauthorized] * 100 + [RateLimited] * 1900
    await store.update(used.key.hash, KeyChanges(name="changed"))
    await ring.refresh()
    assert (await ring.authenticate(used.secret.reveal(), IP)).name == "changed"
    assert isinstance(await refusal(ring, unused.secret.reveal()), RateLimited)
    assert (await ring.authenticate(unused.secret.reveal(), "192.0.2.8")).key_id == unused.key.hash


async def test_a_lost_database_stops_new_keys_only(
    ring: KeyRing, engine: AsyncEngine, world: HandWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "xrouter.auth.keyring")
    known, new = await make_key(engine, world), await make_key(engine, world)
    await ring.refresh()
    await ring.authenticate(known.secret.reveal(), IP)
    assert ring.lag_s == 0
    async with writing(engine) as connection:
        for table in ("api_keys", "revisions"):
            await connection.execute(text(f"ALTER TABLE {table} RENAME TO hidden_{table}"))
    for _ in range(5):
        await poll(world)
    assert ring.lag_s == 2.5
    assert (await ring.authenticate(known.secret.reveal(), IP)).key_id == known.key.hash
    error = await refusal(ring, new.secret.reveal())
    assert isinstance(error, StoreUnavailable)
    assert "api_keys" in (error.detail or "")
    assert b"table" not in error.encoded()
    async with writing(engine) as connection:
        for table in ("api_keys", "revisions"):
            await connection.execute(text(f"ALTER TABLE hidden_{table} RENAME TO {table}"))
    await poll(world)
    assert ring.lag_s == 0
    assert (await ring.authenticate(new.secret.reveal(), IP)).key_id == new.key.hash
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_failures_of_the_database_are_no_guesses(ring: KeyRing, engine: AsyncEngine, world: HandWorld) -> None:
    async with writing(engine) as connection:
        await connection.execute(text("ALTER TABLE api_keys RENAME TO hidden"))
    for _ in range(150):
        assert isinstance(await refusal(ring, keyformat.new_secret(None).reveal()), StoreUnavailable)


async def test_a_ring_does_not_start_without_its_database(engine: AsyncEngine, world: HandWorld) -> None:
    async with writing(engine) as connection:
        await connection.execute(text("DROP TABLE revisions"))
    ring = KeyRing(engine, world)
    with pytest.raises(StoreUnavailable):
        await ring.start()
    await ring.aclose()


async def test_rotation_with_grace(ring: KeyRing, engine: AsyncEngine, world: HandWorld, store: KeyStore) -> None:
    old = await make_key(engine, world)
    secret = keyformat.new_secret(None).reveal()
    await ring.authenticate(old.secret.reveal(), IP)
    await store.rotate(old.key.hash, new_hash=keyformat.digest(secret).hex(), new_label="l", grace_s=5)
    await ring.refresh()
    was, is_now = await ring.authenticate(old.secret.reveal(), IP), await ring.authenticate(secret, IP)
    assert replace(was, key_id=is_now.key_id) == is_now
    world.advance(5)
    assert (await refusal(ring, old.secret.reveal())).detail == "expired key"
    await ring.authenticate(secret, IP)
