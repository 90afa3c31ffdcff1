"""GigaChat's token issue: OAuth by authorization key, and `/token` by user and password (gigachat.md section 2)."""

import base64
import binascii
import hashlib
from urllib.parse import parse_qs

from xrouter.sandbox import credentials
from xrouter.sandbox.endpoint import Incoming
from xrouter.sandbox.gigachat_dialect import OAUTH, is_uuid4, refuse
from xrouter.sandbox.reply import Refusal, Reply, json_reply
from xrouter.sandbox.state import SandboxState, Token

_TOKEN_BYTES = 900  # base64: the 1.2 kB of a real one


def _oauth_refusal(status: int, code: int, message: str) -> Refusal:
    return Refusal(json_reply({"code": code, "message": message}, status))


async def oauth(incoming: Incoming) -> Reply:
    """POST /api/v2/oauth."""
    state = incoming.state
    if not state.admit("gigachat oauth", state.config.oauth_per_s):
        raise Refusal(OAUTH.failure(429))
    if not is_uuid4(incoming.header("rquid")):
        raise _oauth_refusal(400, 2, "RqUID is missing or is not a uuid4")  # the sheet gives no text for this one
    kind, _, key = incoming.header("authorization").partition(" ")
    key = key.strip()
    if kind.lower() not in ("basic", "bearer") or not _is_pair(key):
        raise _oauth_refusal(400, 4, "Can't decode 'Authorization' header")
    form = parse_qs(incoming.body.decode("utf-8", "replace"))
    scopes = form.get("scope", [])
    if not scopes:
        raise _oauth_refusal(400, 5, "scope is empty")
    if len(scopes) > 1 or scopes[0] not in credentials.GIGACHAT_SCOPES:
        raise _oauth_refusal(400, 1, "scope data format invalid")
    owned = credentials.SANDBOX_GIGACHAT_KEYS.get(key)
    if owned is None:
        raise _oauth_refusal(401, 6, "credentials doesn't match db data")
    if owned != scopes[0]:
        raise _oauth_refusal(400, 7, "scope from db not fully includes consumed scope")
    holder = base64.b64decode(key).decode().partition(":")[0]
    return _issued(state, holder, owned)


async def password(incoming: Incoming) -> Reply:
    """POST /v1/token: HTTP Basic, empty body, answered in the tok/exp shape."""
    kind, _, key = incoming.header("authorization").partition(" ")
    expected = f"{credentials.SANDBOX_GIGACHAT_USER}:{credentials.SANDBOX_GIGACHAT_PASSWORD}"
    if kind.lower() != "basic" or key.strip() != base64.b64encode(expected.encode()).decode():
        raise refuse(401)
    value, token = _new_token(incoming.state, credentials.SANDBOX_GIGACHAT_USER, "GIGACHAT_API_CORP")
    return json_reply({"tok": value, "exp": int(token.expires_at * 1000)})


def _issued(state: SandboxState, holder: str, scope: str) -> Reply:
    value, token = _new_token(state, holder, scope)
    expires_ms = int(token.expires_at * 1000)
    match state.config.token_shape:
        case "tok":
            return json_reply({"tok": value, "exp": expires_ms})
        case "s":
            return json_reply({"access_token": value, "expires_at": expires_ms // 1000})
        case "absent":
            return json_reply({"access_token": value})
        case _:
            return json_reply({"access_token": value, "expires_at": expires_ms})


def _new_token(state: SandboxState, holder: str, scope: str) -> tuple[str, Token]:
    """An opaque token that looks like the real JWE, and what it stands for."""
    seed = state.unique_id(f"token {holder}").bytes
    noise = base64.urlsafe_b64encode(hashlib.shake_256(seed).digest(_TOKEN_BYTES)).decode()
    value = "eyJjdHkiOiJqd3QiLCJlbmMiOiJBMjU2Q0JDLUhTNTEyIn0." + noise
    token = Token(holder, scope, state.now() + state.config.token_ttl_s)
    state.issue(value, token)
    return value, token


def _is_pair(key: str) -> bool:
    """Whether `key` is base64 of `id:secret`."""
    try:
        return b":" in base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        return False
