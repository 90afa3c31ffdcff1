"""The credentials that every sandbox accepts. They open nothing else, so they may stand in documents and tests."""

import base64

GIGACHAT_SCOPES = ("GIGACHAT_API_PERS", "GIGACHAT_API_B2B", "GIGACHAT_API_CORP")


def _authorization_key(client_id: str) -> str:
    return base64.b64encode(f"{client_id}:sandbox-secret".encode()).decode()


SANDBOX_GIGACHAT_CREDENTIALS = _authorization_key("sandbox-client")
"""An individual's authorization key, scope GIGACHAT_API_PERS."""

SANDBOX_GIGACHAT_KEYS = {
    SANDBOX_GIGACHAT_CREDENTIALS: "GIGACHAT_API_PERS",
    _authorization_key("sandbox-company"): "GIGACHAT_API_B2B",
    _authorization_key("sandbox-corporation"): "GIGACHAT_API_CORP",
}
"""Authorization key → the scope that it has."""

SANDBOX_GIGACHAT_USER = "sandbox-user"
SANDBOX_GIGACHAT_PASSWORD = "sandbox-password"  # noqa: S105  opens a sandbox only

SANDBOX_YANDEX_API_KEY = "sandbox-yandex-key"
SANDBOX_YANDEX_EXPIRED_API_KEY = "sandbox-yandex-expired-key"
SANDBOX_YANDEX_FOLDER = "b1gsandbox"
SANDBOX_YANDEX_SERVICE_ACCOUNT = "ajesandbox"

SANDBOX_OPENAI_KEY = "sandbox-openai-key"
