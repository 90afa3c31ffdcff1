import pytest
from kit.keys import HandWorld
from kit.money import COSTLY, Money, grant, settlement

from xrouter.auth.issue import issue
from xrouter.store.key import NewKey
from xrouter.store.keys import KeyStore

VIEWS = ["v_accounts", "v_entries", "v_holds", "v_generations", "v_prices", "v_key_usage", "v_usage", "v_keys"]


@pytest.mark.sqlite_only
async def test_views_show_times_and_credits(books: Money, world: HandWorld) -> None:
    await books.ledger.transfer(grant(2_500_000_000))
    await books.hold("g1", 4_000)
    await books.ledger.settle(settlement("g1", 4_000, price=COSTLY, provider_cost_nano=2_000), delivered=True)
    assert books.rows("SELECT name, balance, created_at FROM v_accounts WHERE name IN ('acme', '@promotions')") == [
        ("@promotions", "-2.500000000", "1970-01-01T00:00:00Z"),
        ("acme", "2.499996000", "2027-01-15T08:00:00Z"),
    ]
    assert books.rows("SELECT name, balance FROM v_accounts WHERE name = '@provider_cost'") == [
        ("@provider_cost", "-0.000002000")  # a sign, though no whole credit
    ]
    assert books.rows("SELECT kind, amount, posted_at FROM v_entries WHERE kind = 'charge'") == [
        ("charge", "0.000004000", "2027-01-15T08:00:00Z")
    ]
    assert books.rows("SELECT charged, cost, provider_cost, settled_at FROM v_generations") == [
        ("0.000004000", "0.000004000", "0.000002000", "2027-01-15T08:00:00Z")
    ]
    assert books.rows("SELECT began_at, period, requests, charged FROM v_usage") == [
        ("2027-01-15T08:00:00Z", "hour", 1, "0.000004000")
    ]
    assert books.rows("SELECT used, day, day_began_at FROM v_key_usage") == [
        ("0.000004000", "0.000004000", "2027-01-15T00:00:00Z")
    ]
    assert books.rows("SELECT state, closed_at FROM v_holds") == [("settled", "2027-01-15T08:00:00Z")]


@pytest.mark.sqlite_only
async def test_the_view_of_keys_has_limits_as_credits_and_no_limit_as_null(books: Money, world: HandWorld) -> None:
    store = KeyStore(books.engine, world)
    capped = (await issue(store, NewKey(name="capped", limit_nano=1_500_000_000, limit_reset="daily"))).key
    await issue(store, NewKey(name="free"))
    assert books.rows("SELECT name, limit_credits, limit_reset, created_at, revoked_at FROM v_keys ORDER BY name") == [
        ("capped", "1.500000000", "daily", "2027-01-15T08:00:00Z", None),
        ("free", None, None, "2027-01-15T08:00:00Z", None),
    ]
    assert books.rows("SELECT hash FROM v_keys WHERE name = 'capped'") == [(capped.hash,)]


@pytest.mark.parametrize("view", VIEWS)
async def test_views_are_read_only(books: Money, world: HandWorld, view: str) -> None:
    await issue(KeyStore(books.engine, world), NewKey(name="n"))
    await books.ledger.transfer(grant(10_000))
    await books.ledger.settle(settlement("g1", 4_000), delivered=True)
    await books.hold("g2", 1_000)
    await books.ledger.release("g2")
    with pytest.raises(Exception, match="cannot modify"):
        books.spoil(f"DELETE FROM {view}")
