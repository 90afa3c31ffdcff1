"""A key and those that it was rotated to spend from one limit."""

import asyncio
from pathlib import Path

import pytest
from kit.keys import HandWorld, make_key
from kit.money import ACCOUNT, Money, grant, money, settlement

from xrouter.auth.issue import reissue
from xrouter.errors import PaymentRequired
from xrouter.ledger.proof import prove
from xrouter.store.key import KeyChanges, LimitReset, NewKey
from xrouter.store.keys import KeyStore


async def rotated(
    books: Money, world: HandWorld, limit_nano: int, reset: LimitReset | None
) -> tuple[str, str, KeyStore]:
    """The hashes of a key and of its successor, both in force for an hour."""
    await books.ledger.transfer(grant(1_000_000))
    new = NewKey(name="n", account=ACCOUNT, limit_nano=limit_nano, limit_reset=reset)
    old = (await make_key(books.engine, world, new)).key
    store = KeyStore(books.engine, world)
    return old.hash, (await reissue(store, old, grace_s=3600)).key.hash, store


async def spend(books: Money, generation_id: str, nano: int, key: str) -> None:
    await books.hold(generation_id, nano, key=key)
    await books.ledger.settle(settlement(generation_id, nano, key=key), delivered=True)


@pytest.mark.parametrize("reset", [None, "daily", "monthly"])
async def test_old_and_new_key_together_spend_one_limit(
    books: Money, world: HandWorld, reset: LimitReset | None
) -> None:
    """Fails where spending is counted by the key's own hash: both may then spend the limit (5 000 beyond it here)."""
    old, new, _ = await rotated(books, world, 5_000, reset)
    await spend(books, "g1", 3_000, old)
    with pytest.raises(PaymentRequired) as caught:
        await books.hold("g2", 3_000, key=new)
    assert caught.value.metadata["remaining"] == "0.000002"
    await spend(books, "g3", 2_000, new)
    for key in (old, new):
        with pytest.raises(PaymentRequired):
            await books.hold("g4", 1_000, key=key)
    assert books.rows("SELECT key_hash, used_nano FROM key_usage") == [(old, 5_000)]
    assert books.rows("SELECT key_hash, charged_nano FROM generations ORDER BY id") == [(old, 3_000), (new, 2_000)]
    if reset is not None:
        world.advance(32 * 24 * 3600)
        await spend(books, "g5", 5_000, new)


async def test_parallel_requests_with_both_keys_in_one_batch(books: Money, world: HandWorld) -> None:
    old, new, _ = await rotated(books, world, 10_000, None)
    results = await asyncio.gather(
        *(books.hold(f"g{number}", 1_000, key=(old, new)[number % 2]) for number in range(40)), return_exceptions=True
    )
    assert results.count(1_000) == 10
    assert sum(isinstance(result, PaymentRequired) for result in results) == 30


async def test_holds_that_are_open_survive_the_rotation(books: Money, world: HandWorld) -> None:
    await books.ledger.transfer(grant(1_000_000))
    new = NewKey(name="n", account=ACCOUNT, limit_nano=5_000)
    old = (await make_key(books.engine, world, new)).key
    await books.hold("g1", 3_000, key=old.hash)
    store = KeyStore(books.engine, world)
    successor = (await reissue(store, old, grace_s=0)).key.hash
    with pytest.raises(PaymentRequired):
        await books.hold("g2", 3_000, key=successor)
    await books.ledger.settle(settlement("g1", 1_000, key=old.hash), delivered=True)
    await spend(books, "g3", 4_000, successor)
    assert (await prove(books.engine)).ok


async def test_a_chain_outlives_its_keys(books: Money, world: HandWorld) -> None:
    """Also a settlement for a key that was deleted while its request was under way. Fails if the root is the key's row."""
    old, second, store = await rotated(books, world, 5_000, None)
    third = (await reissue(store, await store.find(second), grace_s=3600)).key.hash
    await books.hold("g1", 2_000, key=second)
    await store.delete(old)
    await store.delete(second)
    await books.ledger.settle(settlement("g1", 2_000, key=second), delivered=True)
    await spend(books, "g2", 3_000, third)
    with pytest.raises(PaymentRequired):
        await books.hold("g3", 1_000, key=third)
    fourth = (await reissue(store, await store.find(third), grace_s=0)).key.hash
    with pytest.raises(PaymentRequired):
        await books.hold("g4", 1_000, key=fourth)
    assert books.rows("SELECT key_hash, held_nano, used_nano FROM key_usage") == [(old, 0, 5_000)]


async def test_each_key_of_a_chain_has_its_own_limit_on_the_common_spending(books: Money, world: HandWorld) -> None:
    old, new, store = await rotated(books, world, 5_000, None)
    await store.update(new, KeyChanges(limit_nano=8_000))
    await spend(books, "g1", 6_000, new)
    with pytest.raises(PaymentRequired):
        await books.hold("g2", 1_000, key=old)
    await spend(books, "g3", 2_000, new)


async def test_the_proof_names_a_chain_that_is_counted_wrong(books: Money, world: HandWorld, tmp_path: Path) -> None:
    async with money(tmp_path, world, name="other.db") as other:
        old, new, _ = await rotated(other, world, 5_000, None)
        await spend(other, "g1", 2_000, old)
        await spend(other, "g2", 1_000, new)
        other.spoil("UPDATE key_usage SET used_nano = 2000")
        problems = (await prove(other.engine)).problems
        assert problems == (
            f"key {old} has spent (ever, day, week, month) 0.000002, 0.000003, 0.000003, 0.000003;"
            " its generations give 0.000003, 0.000003, 0.000003, 0.000003",
        )
        other.spoil("UPDATE key_usage SET used_nano = 3000")
