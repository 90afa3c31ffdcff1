"""What GigaChat's failures mean to a client; numbers are those of the sheet's section 15."""

import base64
import time
from typing import Any
from urllib.parse import quote

import pytest
from gigachat_kit import CLIENT_ID, CLIENT_SECRET, CREDENTIALS, STATE_ID, answer, provider, sent, translator

from xrouter.errors import (
    BadRequest,
    ContextLengthExceeded,
    UpstreamAuthError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamQuotaExhausted,
    UpstreamTimeout,
    XRouterError,
)
from xrouter.secret import Secret
from xrouter.upstream.base import Headers

PAGE = b"<html>\r\n<head><title>403 Forbidden</title></head><body><center>SynGX</center></body></html>"


def error(status: int, body: Any = b"", headers: Headers = (), **config: Any) -> XRouterError:
    made = translator(of=provider(**config))
    sent(made)
    return made.error(answer(status, body, headers))


def said(status: int, message: str) -> dict[str, Any]:
    return {"status": status, "message": message}


@pytest.mark.parametrize(
    ("status", "body", "kind", "as_status", "type_", "retry"),
    [
        (400, said(400, "Bad Request"), BadRequest, 400, "invalid_request_error", None),
        (400, said(400, "Слишком много токенов: 200000"), ContextLengthExceeded, 400, "context_length_exceeded", None),
        (401, said(401, "Unauthorized"), UpstreamAuthError, 502, "upstream_auth_error", False),
        (401, said(401, "Token has expired"), UpstreamAuthError, 502, "upstream_auth_error", False),
        (402, said(402, "Payment Required"), UpstreamQuotaExhausted, 402, "insufficient_quota", False),
        (403, said(403, "Permission denied"), UpstreamError, 403, "permission_denied", False),
        (403, {"message": "Unauthorized"}, UpstreamProtocolError, 502, "upstream_protocol_error", False),
        (403, PAGE, UpstreamProtocolError, 502, "upstream_protocol_error", False),
        (404, said(404, "No such model"), UpstreamError, 404, "model_not_found", False),
        (404, PAGE, UpstreamProtocolError, 502, "upstream_protocol_error", False),
        (400, PAGE, UpstreamProtocolError, 502, "upstream_protocol_error", False),
        (413, said(413, "Payload too large"), ContextLengthExceeded, 400, "context_length_exceeded", None),
        (413, PAGE, ContextLengthExceeded, 400, "context_length_exceeded", None),
        (422, said(422, "Invalid params: x"), BadRequest, 400, "invalid_request_error", None),
        (429, said(429, "Too many requests"), UpstreamError, 429, "rate_limit_exceeded", True),
        (429, b"", UpstreamError, 429, "rate_limit_exceeded", True),
        (500, said(500, "Internal Server Error"), UpstreamError, 502, "upstream_error", True),
        (502, PAGE, UpstreamError, 502, "upstream_error", True),
        (503, PAGE, UpstreamError, 503, "upstream_error", True),
        (504, PAGE, UpstreamTimeout, 504, "upstream_timeout", True),
        (302, b"", UpstreamProtocolError, 502, "upstream_protocol_error", False),
        (418, b"", UpstreamProtocolError, 502, "upstream_protocol_error", False),
    ],
)
def test_gigachat_26_every_status(
    status: int, body: Any, kind: type[XRouterError], as_status: int, type_: str, retry: bool | None
) -> None:
    raised = error(status, body)
    assert type(raised) is kind
    assert (raised.status, raised.type, getattr(raised, "retry", None)) == (as_status, type_, retry)
    assert "SynGX" not in f"{raised.body()} {raised.detail}"
    if isinstance(raised, UpstreamError):
        assert raised.upstream_status == status


def test_gigachat_26_a_clients_mistake_is_explained() -> None:
    text = "Invalid params: every assistant function call must have a result in history"
    assert text in error(422, said(422, text)).message
    assert len(error(422, said(422, "щ" * 5000)).message) < 600


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1", 1), (b"0", 0), (b"99999999", 3600), (b"soon", None), (b"", None), (b"-1", None),
     (b"Mon, 21 Sep 2026 14:13:40 GMT", 20)],
)  # fmt: skip
def test_gigachat_24_retry_after(value: bytes, seconds: float | None) -> None:
    raised = error(429, said(429, "Too many requests"), ((b"retry-after", value),))
    assert raised.retry_after_s == seconds


def test_the_operator_is_told_the_providers_request_id() -> None:
    assert STATE_ID in (error(500, b"", ((b"x-request-id", STATE_ID.encode()),)).detail or "")
    assert "none" in (error(500, b"", ((b"x-request-id", b"\r\nkey=1"),)).detail or "")


TOKEN = "eyJjdHkiOiJqd3QiLCJlbmMiOiJBMjU2Q0JDLUhTNTEyIn0.Zm9v.YmFy"
ECHOES = [
    CREDENTIALS,
    f"Basic {CREDENTIALS}",
    f"basic\t{CREDENTIALS}",
    f"Authorization:Basic {CREDENTIALS}, please",
    f"https://x/?key={quote(CREDENTIALS)}",
    CLIENT_ID,
    CLIENT_SECRET,
    f"{CLIENT_ID}:{CLIENT_SECRET}",
    base64.b64encode(CREDENTIALS.encode()).decode(),
    CREDENTIALS.encode().hex(),
    f"Bearer {TOKEN}",
    f"token={TOKEN};",
    "Bearer short",
]


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [400, 401, 403, 422, 429, 500])
def test_no_secret_that_the_provider_echoes_is_shown(echo: str, status: int) -> None:
    raised = error(status, said(status, f"Ошибка: «{echo}» не подходит"))
    shown = f"{raised.body()} {raised.detail} {raised!r}"
    secrets = (CREDENTIALS, quote(CREDENTIALS), CLIENT_ID, CLIENT_SECRET, TOKEN, "short", echo)
    assert not [secret for secret in secrets if secret in shown]


def test_a_short_password_is_not_shown_either() -> None:
    raised = error(422, said(422, "bad hunter2!"), user="ivan", password=Secret("hunter2"))
    assert raised.message == "GigaChat refused the request: bad ***!"


def test_a_message_of_the_worst_kind_is_read_quickly() -> None:
    started = time.perf_counter()
    for text in ("a" * 1_000_000, "basic " * 100_000, "< " * 300_000, "<" + " " * 300_000, "\0" * 500_000):
        error(422, said(422, text))
    assert time.perf_counter() - started < 2
