"""GigaChat's access tokens: sections 2.1 (authorization key) and 2.2 (user and password) of the sheet."""

from base64 import b64encode
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from xrouter.errors import UpstreamProtocolError
from xrouter.ids import uuid4
from xrouter.providers.gigachat_errors import token_error
from xrouter.providers.gigachat_http import USER_AGENT
from xrouter.providers.gigachat_wire import ReadToken
from xrouter.secret import Secret
from xrouter.upstream.base import Headers, UpstreamAnswer, UpstreamRequest
from xrouter.upstream.signin import Token
from xrouter.world import World

_RENEW_BEFORE_S: Final = 60.0
_UNSTATED_LIFETIME_S: Final = 25 * 60.0
_FIRST_MILLISECONDS: Final = 10**11  # a smaller `expires_at` is in seconds: in milliseconds it would be in 1973
_LONGEST_LIFETIME_S: Final = 24 * 3600.0


class GigaChatTokenFlow:
    """Tokens from the token service, for an authorization key and a scope."""

    def __init__(self, auth_url: str, credentials: Secret, scope: str, world: World) -> None:
        self._auth_url = auth_url
        self._key = Secret(authorization_key(credentials.reveal()))
        self._scope = scope
        self._world = world

    def request(self) -> UpstreamRequest:
        return UpstreamRequest(
            "POST",
            self._auth_url,
            (
                (b"accept", b"application/json"),
                USER_AGENT,
                (b"authorization", b"Basic " + self._key.reveal().encode()),
                (b"content-type", b"application/x-www-form-urlencoded"),
                (b"rquid", uuid4(self._world).encode()),
            ),
            b"scope=" + self._scope.encode(),
            idempotent=True,
        )

    def token(self, answer: UpstreamAnswer) -> Token:
        return read_token(answer, self._world)

    def headers(self, token: str) -> Headers:
        return bearer(token)


class PasswordTokenFlow:
    """Tokens from the API's own `/token`, for a user and a password."""

    def __init__(self, base_url: str, user: str, password: Secret, world: World) -> None:
        self._url = base_url.rstrip("/") + "/token"
        self._user = user
        self._password = password
        self._world = world

    def request(self) -> UpstreamRequest:
        basic = b64encode(f"{self._user}:{self._password.reveal()}".encode())
        headers = ((b"accept", b"application/json"), USER_AGENT, (b"authorization", b"Basic " + basic))
        return UpstreamRequest("POST", self._url, headers, idempotent=True)

    def token(self, answer: UpstreamAnswer) -> Token:
        return read_token(answer, self._world)

    def headers(self, token: str) -> Headers:
        return bearer(token)


def bearer(token: str) -> Headers:
    return ((b"authorization", b"Bearer " + token.encode()),)


def authorization_key(text: str) -> str:
    """The key as the cabinet shows it, with or without the word `Basic` before it."""
    text = text.strip()
    return text[6:].strip() if text[:6].lower() == "basic " else text


def read_token(answer: UpstreamAnswer, world: World) -> Token:
    """The token of an answer. Raises what `token_error` says, or UpstreamProtocolError for a body without a token."""
    if not 200 <= answer.status < 300:
        raise token_error(answer, world)
    try:
        body = msgspec.json.decode(answer.body, type=ReadToken)
    except (ValueError, RecursionError):
        body = ReadToken()
    value = body.access_token or body.tok
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise UpstreamProtocolError("The upstream's token service did not answer with a token")
    lifetime_s = _lifetime_s(body.expires_at or body.exp, answer, world)
    return Token(value, lifetime_s, min(_RENEW_BEFORE_S, lifetime_s / 2))


def _lifetime_s(expires_at: float | None, answer: UpstreamAnswer, world: World) -> float:
    """From now. By the server's own clock where its answer shows it, so that ours may be wrong."""
    if expires_at is None:
        return _UNSTATED_LIFETIME_S
    expires_at_s = expires_at / 1000 if expires_at >= _FIRST_MILLISECONDS else expires_at
    lifetime_s = expires_at_s - _server_time_s(answer, world)
    # A token just issued is not expired: the clocks disagree, and a 401 will tell when its life is over.
    return min(lifetime_s, _LONGEST_LIFETIME_S) if lifetime_s > 0 else _UNSTATED_LIFETIME_S


def _server_time_s(answer: UpstreamAnswer, world: World) -> float:
    date = (answer.header(b"date") or b"").decode("latin-1")
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return world.now()
