"""F33 with real processes: a thousand requests at once where a hundred can be paid. `XROUTER_ROUNDS=10` for the long run."""

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Final

import httpx2
import pytest
from kit import stores
from kit.gateway import new_key
from kit.money import problems
from kit.serving import serving

from xrouter.sandbox.running import running_sandbox

ROUNDS: Final = int(os.environ.get("XROUTER_ROUNDS", "1"))
REQUESTS: Final = 1_000
AFFORDED: Final = 100
TOKEN: Final = "the-operators-own-token"
CONFIG: Final = """
store: {store}
server: {{port: 0}}
admin: {{token: {token}}}
upstreams: {{local: {{provider: openai, base_url: "${{LOCAL_BASE_URL}}", api_key: "${{LOCAL_API_KEY}}"}}}}
models:
  paid/chat: {{price: {{input: "0", request: "1"}}, routes: [{{upstream: local, model: sandbox-large}}]}}
filters: [auth, body, {{routing: {{retries: 0}}}}, token_count, quota]
"""


async def all_at_once(urls: list[str], key: str) -> Counter[int]:
    """The statuses of so many requests, each to one of the gateways in turn."""
    body = {"model": "paid/chat", "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
    limits = httpx2.Limits(max_connections=REQUESTS)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=120) as client:
        asked = (client.post(f"{urls[n % len(urls)]}/v1/chat/completions", json=body) for n in range(REQUESTS))
        return Counter(answer.status_code for answer in await asyncio.gather(*asked))


@pytest.mark.timeout(120 + 120 * ROUNDS)
def test_f33_a_thousand_requests_to_two_gateways_on_a_balance_for_a_hundred(tmp_path: Path) -> None:
    """Every request costs one credit, an account has a hundred and a bit: exactly a hundred are served, the rest refused.

    Fails if what is held for others counts as available.
    """
    store = stores.current.url(tmp_path / "rounds.db")
    with running_sandbox() as sandbox:
        environ = {**sandbox.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        configs = [tmp_path / f"{name}.yaml" for name in ("one", "two")]
        for config in configs:
            config.write_text(CONFIG.format(store=store, token=TOKEN))
        with serving(configs[0], environ) as one, serving(configs[1], environ) as two:
            for number in range(ROUNDS):
                account = f"round-{number}"
                key = new_key(store, account=account)
                paid = {
                    "account": account,
                    "amount": AFFORDED + 0.999999999 - 1_000_000,
                    "reason": "as much as it is about",
                }
                admin = {"Authorization": f"Bearer {TOKEN}"}
                left = httpx2.post(f"{one.url}/admin/api/credits/adjust", json=paid, headers=admin, timeout=60)
                assert left.json()["available"] == AFFORDED + 0.999999999, left.text
                statuses = asyncio.run(all_at_once([one.url, two.url], key))
                shown = httpx2.get(f"{two.url}/admin/api/credits?account={account}", headers=admin, timeout=60).json()
                print(f"round {number}: {dict(statuses)}, {shown}")
                assert statuses[200] == AFFORDED
                assert statuses.keys() <= {200, 402, 503}, "503: the store was too slow, on a machine that is too busy"
                assert (shown["balance"], shown["held"]) == (0.999999999, 0)
    assert asyncio.run(problems(store)) == ()
