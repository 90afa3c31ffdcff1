"""IAM tokens: what to ask Yandex for, and how to read its answer. When to ask is the token keeper's business.

Source: the sheet's section 2. A token lives for at most 12 hours, Yandex recommends a new one each hour, and may answer
with the same token again while that is far from its end.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct

from xrouter.errors import UpstreamAuthError, UpstreamError, UpstreamProtocolError
from xrouter.providers.yandexgpt_errors import error_for
from xrouter.secret import Secret
from xrouter.upstream.base import Headers, UpstreamAnswer, UpstreamRequest
from xrouter.upstream.signin import Token
from xrouter.wire import encode_json
from xrouter.world import World

if TYPE_CHECKING:
    from xrouter.providers.yandexgpt_key import ServiceAccountKey

AUDIENCE = "https://iam.api.cloud.yandex.net/iam/v1/tokens"
_RENEW_AFTER_S = 3600.0
_UNSAID_LIFETIME_S = 3600.0  # for an answer without an end: the shortest life that the documentation speaks of
_Shape = TypeVar("_Shape")


class _Issued(Struct, rename="camel"):
    """`POST /iam/v1/tokens`."""

    iam_token: str
    expires_at: str | None = None  # RFC 3339, up to nanoseconds


class _Metadata(Struct):
    """The metadata service's token, in the shape of Google's."""

    access_token: str
    expires_in: float | None = None


class IamFlow:
    """Tokens from the IAM service, for a body that proves who is asking. Implements `TokenFlow`."""

    def __init__(self, url: str, proof: Callable[[], dict[str, str]], world: World) -> None:
        self._url = url
        self._proof = proof
        self._world = world

    @classmethod
    def for_service_account(cls, url: str, key: "ServiceAccountKey", audience: str, world: World) -> "IamFlow":
        return cls(url, lambda: {"jwt": key.signed(int(world.now()), audience)}, world)

    @classmethod
    def for_person(cls, url: str, oauth_token: Secret, world: World) -> "IamFlow":
        return cls(url, lambda: {"yandexPassportOauthToken": oauth_token.reveal()}, world)

    def request(self) -> UpstreamRequest:
        return UpstreamRequest(
            "POST",
            self._url,
            ((b"content-type", b"application/json"), (b"accept", b"application/json")),
            encode_json(self._proof()),
            idempotent=True,
        )

    def token(self, answer: UpstreamAnswer) -> Token:
        if answer.status != 200:
            raise _refusal(answer, self._world)
        issued = _decoded(answer, _Issued)
        lifetime_s = _UNSAID_LIFETIME_S
        if issued.expires_at is not None:
            try:
                ends_at = datetime.fromisoformat(issued.expires_at)
                lifetime_s = ends_at.replace(tzinfo=ends_at.tzinfo or UTC).timestamp() - self._world.now()
            except (ValueError, OverflowError):
                raise UpstreamProtocolError("The upstream's token has no readable end of life") from None
        return _token(issued.iam_token, lifetime_s)

    def headers(self, token: str) -> Headers:
        return bearer(token)


class MetadataFlow:
    """Tokens of the service account that a virtual machine or a function runs as. Implements `TokenFlow`."""

    def __init__(self, url: str, world: World) -> None:
        self._url = url
        self._world = world

    def request(self) -> UpstreamRequest:
        return UpstreamRequest("GET", self._url, ((b"metadata-flavor", b"Google"),), idempotent=True)

    def token(self, answer: UpstreamAnswer) -> Token:
        if answer.status != 200:
            raise _refusal(answer, self._world)
        issued = _decoded(answer, _Metadata)
        return _token(issued.access_token, _UNSAID_LIFETIME_S if issued.expires_in is None else issued.expires_in)

    def headers(self, token: str) -> Headers:
        return bearer(token)


def bearer(token: str) -> Headers:
    return ((b"authorization", b"Bearer " + token.encode("latin-1", "replace")),)


def _token(value: str, lifetime_s: float) -> Token:
    """Renewed after an hour, or when a tenth of a shorter life is left."""
    if not value or not value.isascii() or not value.isprintable():
        raise UpstreamProtocolError("The upstream's token cannot be sent in a header")
    lifetime_s = max(0.0, lifetime_s)
    return Token(value, lifetime_s, lifetime_s - min(_RENEW_AFTER_S, 0.9 * lifetime_s))


def _refusal(answer: UpstreamAnswer, world: World) -> UpstreamError:
    """A service that is down or busy may be asked again; all else is the credential's fault, so the operator's to mend."""
    error = error_for(answer, world)
    if isinstance(error, UpstreamError) and error.retry:
        return error
    return UpstreamAuthError(retry=False, upstream_status=answer.status, detail=error.detail)


def _decoded(answer: UpstreamAnswer, shape: type[_Shape]) -> _Shape:
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamProtocolError("The upstream's answer holds no token") from None
