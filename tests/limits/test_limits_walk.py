"""Limits of a whole gateway, as a client sees them: the balance that a rate follows, shadows, addresses behind proxies."""

from collections import Counter
from collections.abc import Iterator

import httpx2
import pytest
from kit.gateway import RunningGateway, new_key, running_gateway
from kit.walk import metric

from xrouter.sandbox.running import running_sandbox

YAML = """
server: {trusted_proxies: [127.0.0.1, 10.0.0.0/8]}
upstreams:
  local: {provider: openai, base_url: "${LOCAL_BASE_URL}", api_key: "${LOCAL_API_KEY}"}
models:
  local/large: {price: {input: "1", output: "1"}, routes: [{upstream: local, model: sandbox-large}]}
tiers: {balance: {}, watched: {}, home: {}, narrow: {}}
filters:
  - auth
  - rate_limit:
      limits:
        - {per: key, requests: 1/hour, per_credit: true, most: 500, name: balance, tiers: [balance]}
        - {per: key, requests: 2/hour, shadow: true, name: tight, tiers: [watched]}
        - {per: ip, requests: 2/hour, name: address, tiers: [home]}
  - body
  - routing
  - token_count
  - quota
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        running_sandbox() as sandbox,
        running_gateway(YAML, sandbox.environ, tmp_path_factory.mktemp("gateway")) as running,
    ):
        yield running


def asking(gateway: RunningGateway, key: str, **headers: str) -> httpx2.Response:
    body = {"model": "local/large", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    headers = {"Authorization": f"Bearer {key}", **headers}
    return httpx2.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def test_a_rate_follows_the_credits_that_are_left(gateway: RunningGateway) -> None:
    """Of the account, or of the key's own limit where that is less. The first request says how many they are."""
    key = new_key(gateway.store, tier="balance", account="poor", limit_nano=3_500_000_000)
    replies = [asking(gateway, key) for _ in range(5)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429, 429]
    assert [reply.headers["x-ratelimit-limit"] for reply in replies] == ["500", "3", "3", "3", "3"]
    assert replies[3].json()["error"]["metadata"]["limit"] == "balance"


def test_a_shadow_limit_is_in_header_log_and_metric(gateway: RunningGateway) -> None:
    key = new_key(gateway.store, tier="watched", account="watched")
    replies = [asking(gateway, key) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200] * 3
    assert [reply.headers.get("x-xrouter-shadow-limit") for reply in replies] == [None, None, "tight"]
    records = [gateway.log.request(reply.headers["x-request-id"]) for reply in replies]
    assert [record.get("shadow_limits") for record in records] == [None, None, ["tight"]]
    assert metric(gateway, "xrouter_ratelimit_refused_total", limit="tight", shadow="true") == 1


def test_a_client_behind_proxies_is_counted_by_its_own_address(gateway: RunningGateway) -> None:
    """The last address that no trusted proxy has is the client's: what it writes before that itself changes nothing."""
    keys = [new_key(gateway.store, tier="home", account=f"a{number}") for number in range(2)]
    for told, admitted in (
        ("198.51.100.7", 2),
        ("192.0.2.1, 198.51.100.7", 0),
        ("198.51.100.7, 10.1.1.1", 0),
        ("198.51.100.8", 2),
        ("2001:db8:1:2:3::1", 2),
        ("2001:db8:1:2:4::1", 0),
        ("2001:db8:1:3::1", 2),
    ):
        statuses = Counter(asking(gateway, key, **{"X-Forwarded-For": told}).status_code for key in keys * 2)
        assert statuses == Counter({200: admitted, 429: 4 - admitted}) - Counter(), told
