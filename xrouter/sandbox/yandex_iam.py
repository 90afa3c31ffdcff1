"""Yandex IAM: tokens for a service account's signed JWT (yandexgpt.md section 2.1)."""

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from joserfc.jws import extract_compact
from msgspec import Struct

from xrouter.sandbox import credentials
from xrouter.sandbox.endpoint import Incoming
from xrouter.sandbox.reply import Reply, json_reply
from xrouter.sandbox.state import SandboxState, ServiceAccountKey, Token
from xrouter.sandbox.yandex_dialect import INVALID_ARGUMENT, UNARY, UNAUTHENTICATED
from xrouter.sandbox.yandex_wire import decoded

AUDIENCE = "https://iam.api.cloud.yandex.net/iam/v1/tokens"
SANDBOX_PASSPORT_TOKEN = "y0_sandbox"  # noqa: S105  opens a sandbox only

_LONGEST_LIFE_S = 3600
_CLOCK_SKEW_S = 300


class TokenRequest(Struct, forbid_unknown_fields=True, rename="camel"):
    jwt: str | None = None
    yandex_passport_oauth_token: str | None = None


class RevokeRequest(Struct, forbid_unknown_fields=True, rename="camel"):
    iam_token: str


def new_service_account_key(state: SandboxState) -> dict[str, str]:
    """A fresh authorised key in the form of Yandex's key file, known to this sandbox."""
    key = RSAKey.generate_key(2048, private=True)
    key_id = "aje" + state.unique_id("service account key").hex[:17]
    public, private = key.as_pem(private=False).decode(), key.as_pem(private=True).decode()
    state.service_accounts[key_id] = ServiceAccountKey(credentials.SANDBOX_YANDEX_SERVICE_ACCOUNT, public)
    return {
        "id": key_id,
        "service_account_id": credentials.SANDBOX_YANDEX_SERVICE_ACCOUNT,
        "created_at": "2026-10-01T10:00:00Z",
        "key_algorithm": "RSA_2048",
        "public_key": public,
        "private_key": f"PLEASE DO NOT REMOVE THIS LINE! Yandex.Cloud SA Key ID <{key_id}>\n{private}",
    }


async def tokens(incoming: Incoming) -> Reply:
    """POST /iam/v1/tokens."""
    state = incoming.state
    request: TokenRequest = decoded(incoming.body, TokenRequest, UNARY)
    if (request.jwt is None) == (request.yandex_passport_oauth_token is None):
        raise UNARY.refuse(INVALID_ARGUMENT, "exactly one of jwt and yandex_passport_oauth_token must be set")
    if request.jwt is not None:
        account = _verified(state, request.jwt)
    else:
        if request.yandex_passport_oauth_token != SANDBOX_PASSPORT_TOKEN:
            raise UNARY.refuse(UNAUTHENTICATED, "OAuth token is invalid or expired")
        account = "passport"
    value = _token_of(state, account)
    return json_reply({"iamToken": value, "expiresAt": _rfc3339_nanoseconds(state.tokens[value].expires_at)})


async def revoke(incoming: Incoming) -> Reply:
    """POST /iam/v1/tokens:revoke."""
    request: RevokeRequest = decoded(incoming.body, RevokeRequest, UNARY)
    state = incoming.state
    state.tokens.pop(request.iam_token, None)
    state.iam_tokens = {who: value for who, value in state.iam_tokens.items() if value != request.iam_token}
    return json_reply({"subjectId": credentials.SANDBOX_YANDEX_SERVICE_ACCOUNT})


def _verified(state: SandboxState, text: str) -> str:
    """The service account that signed `text`. The texts of the refusals are the sandbox's own."""
    try:
        key_id = str(_header(text).get("kid"))
        known = state.service_accounts.get(key_id)
        if known is None:
            raise UNARY.refuse(UNAUTHENTICATED, "JWT is signed by an unknown key")
        claims = jwt.decode(text, RSAKey.import_key(known.public_pem), algorithms=["PS256"]).claims
    except (JoseError, ValueError):
        raise UNARY.refuse(UNAUTHENTICATED, "JWT is malformed or its signature is not PS256 of this key") from None
    now = state.now()
    issued, expires = claims.get("iat"), claims.get("exp")
    if claims.get("iss") != known.service_account or claims.get("aud") != AUDIENCE:
        raise UNARY.refuse(UNAUTHENTICATED, "JWT has a wrong iss or aud")
    if not isinstance(issued, int) or not isinstance(expires, int):
        raise UNARY.refuse(UNAUTHENTICATED, "JWT lacks iat or exp in whole seconds")
    if not 0 < expires - issued <= _LONGEST_LIFE_S:
        raise UNARY.refuse(UNAUTHENTICATED, "JWT must live for at most 3600 seconds")
    if issued > now + _CLOCK_SKEW_S or expires <= now:
        raise UNARY.refuse(UNAUTHENTICATED, "JWT is expired or of the future")
    return known.service_account


def _header(text: str) -> dict[str, Any]:
    header: dict[str, Any] = extract_compact(text.encode()).headers()
    if header.get("typ") != "JWT":
        raise UNARY.refuse(UNAUTHENTICATED, "JWT must say typ JWT")
    return header


def _token_of(state: SandboxState, account: str) -> str:
    """The account's token: the same one until half of its life is over."""
    now, life = state.now(), state.config.iam_ttl_s
    held = state.iam_tokens.get(account)
    if held is not None and held in state.tokens and state.tokens[held].expires_at > now + life / 2:
        return held
    seed = state.unique_id(f"iam {account}").bytes
    noise = hashlib.shake_256(seed).digest(64 + 40)
    body = base64.urlsafe_b64encode(noise[64:]).decode().rstrip("=")
    signature = base64.urlsafe_b64encode(noise[:64]).decode().rstrip("=")  # 64 bytes: 86 characters
    value = f"t1.{body}.{signature}"
    state.issue(value, Token(account, "iam", now + life))
    state.iam_tokens[account] = value
    return value


def _rfc3339_nanoseconds(seconds: float) -> str:
    whole = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{int(seconds % 1 * 1_000_000_000):09d}Z"
