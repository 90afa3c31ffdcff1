"""For tests of what an account can ask: a priced configuration with an admin token, and whoever asks the gateway."""

from dataclasses import dataclass
from typing import Any

import httpx2
from kit.gateway import RunningGateway

from xrouter.auth.issue import IssuedKey, issue
from xrouter.ledger.operations import Balance, Transfer
from xrouter.store.key import NewKey
from xrouter.store.keys import KeyStore

TOKEN = "an-admin-token-of-the-tests"
ACCOUNTS = f"""
admin: {{token: {TOKEN}}}
tiers: {{free: {{requests: [1000/minute, 5000/day], tokens: [1000000/minute]}}, pro: {{}}}}
models:
  gigachat/max:
    context: 131072
    aliases: [gigachat-max]
    price: {{input: "0.65", output: "0.65", cached_input: "0", cost: {{input: "0.5", output: "0.5"}}}}
    routes: [{{upstream: giga, model: GigaChat-2-Max}}]
  gigachat/free:
    price: free
    routes: [{{upstream: giga, model: GigaChat-2}}]
  yandexgpt/pro:
    context: 32768
    price: {{input: "1.20", output: "1.20"}}
    routes: [{{upstream: yandex, model: yandexgpt, surface: native}}]
  local/large:
    price: {{input: "0.3", output: "0.7", per: 1000}}
    routes: [{{upstream: local, model: sandbox-large}}]
filters:
  - auth: {{}}
  - body: {{}}
  - routing: {{retries: 1}}
  - token_count: {{}}
  - quota: {{}}
"""


@dataclass(frozen=True)
class Accounts:
    """A running gateway and whoever asks it."""

    gateway: RunningGateway

    def new_key(self, **fields: Any) -> str:
        """A key's secret; without other word of the account `tests`. Its account is given no credits."""
        app = self.gateway.app
        assert app._engine is not None
        new = NewKey(**{"name": "test", "account": "tests", **fields})
        issued: IssuedKey = self.gateway.call(issue(KeyStore(app._engine, app.world), new))
        return issued.secret.reveal()

    def grant(self, account: str, nano: int) -> Balance:
        transfer = Transfer(kind="grant", account=account, amount_nano=nano, reason="test", author="test")
        granted = self.gateway.call(self.gateway.app._ledger.transfer(transfer))  # type: ignore[union-attr]
        assert isinstance(granted, Balance)
        return granted

    def ask(self, secret: str, method: str, path: str, **fields: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {secret}", **fields.pop("headers", {})}
        return self.gateway.client.request(method, "/api/v1/" + path, headers=headers, **fields)

    def chat(self, secret: str, model: str = "gigachat/max", text: str = "Столица Перу?", **fields: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return self.ask(secret, "POST", "chat/completions", json=body)

    def data(self, secret: str, method: str, path: str, **fields: Any) -> Any:
        response = self.ask(secret, method, path, **fields)
        assert response.is_success, response.text
        return response.json()["data"]
