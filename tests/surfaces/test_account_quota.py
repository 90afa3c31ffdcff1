"""A tier's quota over HTTP: told by `key`, enforced with 402, changed by a reload."""

from collections.abc import Iterator

import pytest
from kit.accounts import ACCOUNTS, Accounts
from kit.gateway import running_gateway
from kit.walk import UPSTREAMS

from xrouter.sandbox.running import Sandbox

QUOTA = 'free: {quota: {day: "0.01", total: "5"},'


@pytest.fixture
def accounts(account_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    folder = tmp_path_factory.mktemp("quota")
    configuration = UPSTREAMS + ACCOUNTS.replace("free: {", QUOTA)
    assert QUOTA in configuration
    with running_gateway(configuration, account_sandbox.environ, folder) as running:
        yield Accounts(running)


def test_a_quota_is_told_and_enforced_for_the_keys_of_its_tier(accounts: Accounts) -> None:
    accounts.grant("quota", 100 * 10**9)
    free, pro = (accounts.new_key(account="quota", tier=tier, limit_nano=3 * 10**9) for tier in ("free", "pro"))
    data = accounts.data(free, "GET", "key")
    told = [(one["scope"], one["guardrail_id"], one["limit_usd"], one["reset_interval"]) for one in data["budgets"]]
    assert told == [
        ("key_limit", None, 3, None),
        ("workspace_default_key", "tier:free", 5, None),
        ("workspace_default_key", "tier:free", 0.01, "daily"),
    ]
    assert data["effective_budget"] == data["budgets"][2]
    assert data["limit"] == 3  # the key's own
    refused = accounts.chat(free, max_tokens=100)
    assert refused.status_code == 402
    error = refused.json()["error"]
    assert "tier free: 0.01 credits a day" in error["message"]
    assert error["metadata"]["limit"] == "tier_daily"
    assert error["metadata"]["remaining"] == "0.01"
    assert error["metadata"]["resets_at"] == data["effective_budget"]["resets_at"]
    assert accounts.chat(pro, max_tokens=100).is_success
    assert len(accounts.data(pro, "GET", "key")["budgets"]) == 1
