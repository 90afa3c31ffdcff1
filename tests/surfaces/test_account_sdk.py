"""OpenRouter's own Python SDK, whose validators refuse any missing field, against every call on the account."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kit.accounts import TOKEN, Accounts
from openrouter import OpenRouter, errors

pytestmark = pytest.mark.filterwarnings("ignore:.*DEPRECATED:DeprecationWarning")  # by the SDK, of fields it asks for
Fresh = Callable[[str], str]


@pytest.fixture
def sdk(accounts: Accounts) -> Iterator[Callable[[str], Any]]:
    opened: list[OpenRouter] = []

    def client(secret: str) -> OpenRouter:
        opened.append(OpenRouter(api_key=secret, server_url=accounts.gateway.url + "/api/v1"))
        return opened[-1].__enter__()

    yield client
    for each in opened:
        each.__exit__(None, None, None)


def test_receipts_and_the_current_key(accounts: Accounts, sdk: Callable[[str], Any], fresh_account: Fresh) -> None:
    account = fresh_account("sdk")
    secret = accounts.new_key(account=account, limit_nano=50 * 10**9, limit_reset="weekly", tier="free")
    client = sdk(secret)
    answer = client.chat.send(model="gigachat/max", messages=[{"role": "user", "content": "Столица Перу?"}])
    receipt = client.generations.get_generation(id=answer.id).data
    assert receipt.total_cost == answer.usage.cost > 0
    assert receipt.provider_responses[0].status == 200
    key = client.api_keys.get_current_key_metadata().data
    assert key.usage == key.usage_weekly == receipt.total_cost
    assert key.limit_remaining == pytest.approx(50 - key.usage)
    assert key.effective_budget.scope == "key_limit"
    assert key.effective_budget.resets_at > datetime.now(UTC)
    assert (key.is_free_tier, key.is_management_key) == (False, False)
    with pytest.raises(errors.OpenRouterError) as refused:
        client.credits.get_credits()
    assert refused.value.status_code == 403
    with pytest.raises(errors.NotFoundResponseError):
        client.generations.get_generation(id="gen-none")


def test_keys_credits_and_activity(accounts: Accounts, sdk: Callable[[str], Any], fresh_account: Fresh) -> None:
    account = fresh_account("sdk-manager")
    client = sdk(accounts.new_key(account=account, management=True))
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    made = client.api_keys.create(name="sdk", limit=5.5, limit_reset="monthly", expires_at=expires_at)
    assert made.data.limit == 5.5
    assert made.data.expires_at == expires_at
    assert [key.hash for key in client.api_keys.list().data] == [made.data.hash]
    changed = client.api_keys.update(hash=made.data.hash, name="new", limit=4.25, disabled=True)
    assert (changed.data.name, changed.data.limit, changed.data.disabled) == ("new", 4.25, True)
    assert client.api_keys.list(include_disabled=True).data[0].disabled
    assert client.api_keys.delete(hash=made.data.hash).DELETED is True
    credits = client.credits.get_credits().data
    assert (credits.total_credits, credits.total_usage) == (100, 0)
    assert client.analytics.get_user_activity().data == []
    current = client.api_keys.get_current_key_metadata().data
    assert current.is_management_key
    assert current.is_provisioning_key  # deprecated, and asked for all the same


def test_the_admin_token(accounts: Accounts, sdk: Callable[[str], Any], fresh_account: Fresh) -> None:
    account = fresh_account("sdk-admin")
    client = sdk(TOKEN)
    made = client.api_keys.create(name="sdk", workspace_id=account)
    assert made.data.workspace_id == account
    assert client.api_keys.list(workspace_id=account).data[0].hash == made.data.hash
    assert client.credits.get_credits().data.total_credits >= 100
    assert client.api_keys.get_current_key_metadata().data.label == "admin token"
