import asyncio
from dataclasses import replace

import pytest
from kit.keys import EPOCH_S, HandWorld
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from xrouter.errors import BadRequest, NotFound
from xrouter.store import revisions
from xrouter.store.key import Key, KeyChanges, NewKey
from xrouter.store.keys import KeyStore

NOW_US = int(EPOCH_S * 1e6)
FULL = NewKey(
    name="Бухгалтерия",
    account="acme",
    tier="pro",
    models=("gigachat/max", "yandexgpt/pro:rc"),
    networks=("10.0.0.0/8", "2001:db8::/32"),
    limit_nano=2**63 - 1,
    limit_reset="monthly",
    management=True,
    expires_at_us=NOW_US + 1,
)


def hash_of(number: int) -> str:
    return f"{number:08x}" * 8


@pytest.fixture
def store(engine: AsyncEngine, world: HandWorld) -> KeyStore:
    return KeyStore(engine, world)


async def add(store: KeyStore, number: int = 1, new: NewKey = FULL) -> Key:
    return await store.create(new, hash=hash_of(number), label=f"label {number}")


async def test_a_key_comes_back_as_it_was_stored(store: KeyStore) -> None:
    bare = await add(store, 1, NewKey(name="x"))
    full = await add(store, 2)
    assert (await store.get(bare.hash), await store.get(full.hash)) == (bare, full)
    assert (full.name, full.models, full.networks, full.limit_nano) == (
        "Бухгалтерия",
        FULL.models,
        FULL.networks,
        2**63 - 1,
    )
    assert (bare.account, bare.models, bare.created_at_us, bare.updated_at_us) == ("default", None, NOW_US, None)
    assert await store.get(hash_of(3)) is None


async def test_what_is_not_set_is_null_in_the_database(store: KeyStore, engine: AsyncEngine) -> None:
    await add(store, 1, NewKey(name="x"))
    async with engine.connect() as connection:
        count = await connection.scalar(text("SELECT count(*) FROM api_keys WHERE models IS NULL AND networks IS NULL"))
    assert count == 1


async def test_every_change_moves_the_revision_and_no_reading_does(store: KeyStore, engine: AsyncEngine) -> None:
    async def revision() -> int:
        return await revisions.read(engine, "keys")

    seen = [await revision()]
    key = await add(store)
    seen.append(await revision())
    await store.update(key.hash, KeyChanges(name="other", disabled=True))
    seen.append(await revision())
    await store.rotate(key.hash, new_hash=hash_of(2), new_label="l")
    seen.append(await revision())
    await store.revoke(hash_of(2))
    seen.append(await revision())
    await store.delete(hash_of(2))
    seen.append(await revision())
    assert seen == [0, 1, 2, 3, 4, 5]
    await store.page()
    await store.get(key.hash)
    assert await revision() == 5


async def test_what_is_added_to_a_creation_lives_and_dies_with_it(store: KeyStore, engine: AsyncEngine) -> None:
    async def fail(connection: AsyncConnection) -> None:
        raise RuntimeError("the grant failed")

    with pytest.raises(RuntimeError, match="the grant failed"):
        await store.create(FULL, hash=hash_of(1), label="l", before_commit=fail)
    assert await store.get(hash_of(1)) is None
    assert await revisions.read(engine, "keys") == 0


async def test_find_takes_an_unambiguous_prefix_of_at_least_8_digits(store: KeyStore) -> None:
    for digit in "ab":
        await store.create(NewKey(name=digit), hash="12345678" + digit * 56, label=digit)
    assert (await store.find("12345678A")).name == "a"
    assert (await store.find("12345678" + "b" * 56)).name == "b"
    with pytest.raises(BadRequest, match="More than one"):
        await store.find("12345678")
    with pytest.raises(NotFound):
        await store.find("87654321")
    for bad in ("1234567", "", "%" * 8, "_2345678", "12345678' OR '1'='1", "a" * 65):
        with pytest.raises(BadRequest, match="named by its hash"):
            await store.find(bad)


async def test_pages_go_from_the_newest_to_the_oldest(store: KeyStore, world: HandWorld) -> None:
    for number in range(5):
        await add(store, number, NewKey(name=str(number)))
        world.advance(1)
    await store.revoke(hash_of(1))
    await store.update(hash_of(2), KeyChanges(disabled=True))
    assert [key.name for key in await store.page()] == ["4", "3", "0"]
    assert [key.name for key in await store.page(include_disabled=True)] == ["4", "3", "2", "1", "0"]
    assert [key.name for key in await store.page(include_disabled=True, offset=1, limit=2)] == ["3", "2"]


async def test_an_update_changes_what_is_given_and_nothing_else(store: KeyStore, world: HandWorld) -> None:
    key = await add(store)
    world.advance(0.25)
    changed = await store.update(key.hash, KeyChanges(limit_nano=None, models=("m",), networks=None))
    assert changed == replace(key, limit_nano=None, models=("m",), networks=None, updated_at_us=NOW_US + 250_000)
    assert await store.get(key.hash) == changed


async def test_a_revoked_key_stays_revoked(store: KeyStore, world: HandWorld) -> None:
    key = await add(store)
    revoked = await store.revoke(key.hash)
    world.advance(10)
    assert await store.revoke(key.hash) == revoked
    with pytest.raises(BadRequest, match="revoked"):
        await store.update(key.hash, KeyChanges(disabled=False))
    with pytest.raises(BadRequest, match="revoked"):
        await store.rotate(key.hash, new_hash=hash_of(2), new_label="l")


async def test_what_is_not_there_cannot_be_changed(store: KeyStore) -> None:
    for attempt in (
        store.update(hash_of(1), KeyChanges(name="x")),
        store.revoke(hash_of(1)),
        store.delete(hash_of(1)),
        store.rotate(hash_of(1), new_hash=hash_of(2), new_label="l"),
    ):
        with pytest.raises(NotFound):
            await attempt


async def test_rotation_hands_the_rights_over(store: KeyStore, world: HandWorld) -> None:
    old = await add(store, 1, replace(FULL, expires_at_us=NOW_US + 3_600_000_000))
    world.advance(1)
    new = await store.rotate(old.hash, new_hash=hash_of(2), new_label="new", grace_s=60)
    assert new == replace(old, hash=hash_of(2), label="new", created_at_us=NOW_US + 1_000_000, rotated_from=old.hash)
    ending = await store.get(old.hash)
    assert ending is not None
    assert (ending.expires_at_us, ending.revoked_at_us) == (NOW_US + 61_000_000, None)


async def test_without_grace_the_old_secret_ends_at_once(store: KeyStore) -> None:
    old = await add(store)
    await store.rotate(old.hash, new_hash=hash_of(2), new_label="new")
    ended = await store.get(old.hash)
    assert ended is not None
    assert ended.revoked_at_us == NOW_US


async def test_grace_never_prolongs_a_key(store: KeyStore) -> None:
    old = await add(store)
    await store.rotate(old.hash, new_hash=hash_of(2), new_label="new", grace_s=60)
    ending = await store.get(old.hash)
    assert ending is not None
    assert ending.expires_at_us == old.expires_at_us


async def test_a_key_has_one_successor_also_if_two_ask_at_once(store: KeyStore) -> None:
    old = await add(store, 1, NewKey(name="x"))
    results = await asyncio.gather(
        *(store.rotate(old.hash, new_hash=hash_of(n), new_label="l", grace_s=60) for n in (2, 3)),
        return_exceptions=True,
    )
    assert {type(result) for result in results} == {BadRequest, Key}
    assert len(await store.page()) == 2


async def test_an_expired_key_is_not_rotated_and_an_expiry_is_not_in_the_past(
    store: KeyStore, world: HandWorld
) -> None:
    key = await add(store)
    world.advance(1)
    with pytest.raises(BadRequest, match="expired"):
        await store.rotate(key.hash, new_hash=hash_of(2), new_label="l")
    for expiry in (NOW_US, NOW_US + 1_000_000):
        with pytest.raises(BadRequest, match="future"):
            await add(store, 3, NewKey(name="x", expires_at_us=expiry))
        with pytest.raises(BadRequest, match="future"):
            await store.update(key.hash, KeyChanges(expires_at_us=expiry))
    assert (await store.update(key.hash, KeyChanges(expires_at_us=None))).expires_at_us is None


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"tier": "Free"}, "tier"),
        ({"tier": "a-b"}, "tier"),
        ({"tier": "x" * 33}, "tier"),
        ({"models": ()}, "models"),
        ({"models": ("",)}, "models"),
        ({"networks": ("10.0.0.1/8",)}, "networks"),
        ({"networks": ("example.org",)}, "networks"),
        ({"networks": ()}, "networks"),
        ({"limit_nano": -1}, "limit"),
        ({"limit_nano": 2**63}, "limit"),
    ],
)
def test_values_that_no_key_may_have_are_refused_when_made_and_when_changed(
    values: dict[str, object], param: str
) -> None:
    for made in (lambda: NewKey(**{"name": "x", **values}), lambda: KeyChanges(**values)):  # type: ignore[arg-type]
        with pytest.raises(BadRequest) as caught:
            made()
        assert caught.value.param == param


@pytest.mark.parametrize("account", ["", "a b", "-a", "x" * 65, "счёт", "a\n"])
def test_an_accounts_name_is_plain(account: str) -> None:
    with pytest.raises(BadRequest) as caught:
        NewKey(name="x", account=account)
    assert caught.value.param == "account"


async def test_status_names_the_strongest_reason(store: KeyStore) -> None:
    key = await add(store)
    assert key.status(NOW_US) == "active"
    assert key.status(NOW_US + 1) == "expired"
    assert replace(key, disabled=True).status(NOW_US) == "disabled"
    assert replace(key, disabled=True, revoked_at_us=NOW_US).status(NOW_US + 1) == "revoked"
