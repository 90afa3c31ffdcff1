"""Yandex AI Studio's three shapes of an error, its response headers and its sign-in (yandexgpt.md sections 2 and 14)."""

import http
from collections.abc import Callable
from typing import Any

from xrouter.sandbox import credentials
from xrouter.sandbox.reply import Header, Refusal, Reply, json_reply, sse
from xrouter.sandbox.state import SandboxState
from xrouter.wire import encode_json

PREFIX = "/yandex"

INVALID_ARGUMENT, PERMISSION_DENIED, NOT_FOUND = 3, 7, 5
RESOURCE_EXHAUSTED, UNAVAILABLE, UNAUTHENTICATED = 8, 14, 16

_GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 409: 10, 429: 8, 499: 1, 500: 13, 501: 12, 503: 14, 504: 4}
_HTTP = {3: 400, 5: 404, 7: 403, 8: 429, 12: 501, 13: 500, 14: 503, 16: 401}

NO_CREDENTIALS = "IAM token or API key has to be passed in request"
GENERATIONS_EXCEEDED = "ai.textGenerationCompletionSessionsCount.count gauge quota limit exceed: allowed {} requests"
RATE_EXCEEDED = "ai.{}RequestsPerSecond.rate rate quota limit exceed: allowed {} requests"

_MESSAGES = {
    400: "invalid argument",
    401: "The token is invalid",
    402: "Billing account is not active",
    403: "Permission denied",
    404: "Failed to get model",
    413: "message larger than max",
    429: GENERATIONS_EXCEEDED.format(10),
    500: "Internal error",
    503: "upstream connect error",
    504: "deadline exceeded",
}


def _phrase(status: int) -> str:
    return http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "Error"


def _streaming(grpc: int, status: int, message: str, request_id: str) -> dict[str, Any]:
    error = {"grpcCode": grpc, "httpCode": status, "message": message, "httpStatus": _phrase(status), "details": []}
    return {"error": error}


def _unary(grpc: int, status: int, message: str, request_id: str) -> dict[str, Any]:
    info = {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": request_id}
    return {"error": message, "code": grpc, "message": message, "details": [info]}


def _compatible(grpc: int, status: int, message: str, request_id: str) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": str(status)}}


class YandexDialect:
    """One of the shapes of section 14: of streaming calls, of unary calls, or of the OpenAI-compatible surface."""

    name = "yandex"

    def __init__(self, shape: Callable[[int, int, str, str], dict[str, Any]]) -> None:
        self._shape = shape

    def headers(self, state: SandboxState, request: dict[str, str]) -> tuple[Header, ...]:
        return (
            ("x-request-id", str(state.unique_id("yandex request"))),
            ("x-server-trace-id", state.unique_id("yandex trace").hex + ":1"),
        )

    def failure(self, status: int, message: str | None = None) -> Reply:
        text = message or _MESSAGES.get(status) or _phrase(status)
        return json_reply(
            self._shape(_GRPC.get(status, 2), status, text, "e38e0000-0000-4000-8000-000000000000"), status
        )

    def failure_in_success(self) -> Reply:
        if self is COMPATIBLE:  # section 9: reported for context overflow
            message = "number of input tokens must be no more than 32768, got 56832"
            return json_reply({"error": {"code": "model_call_error", "message": message}, "output": []})
        return json_reply(self._shape(UNAVAILABLE, 503, _MESSAGES[503], ""))

    def failure_frame(self) -> bytes:
        if self is COMPATIBLE:
            return sse({"error": {"message": _MESSAGES[503], "type": "server_error", "code": "503"}})
        return encode_json(self._shape(UNAVAILABLE, 503, _MESSAGES[503], "")) + b"\n"

    def refuse(self, grpc: int, message: str) -> Refusal:
        return Refusal(self.failure(_HTTP[grpc], message))


STREAMING = YandexDialect(_streaming)
UNARY = YandexDialect(_unary)
COMPATIBLE = YandexDialect(_compatible)


def authorised(state: SandboxState, headers: dict[str, str], dialect: YandexDialect) -> None:
    """Refuse a request without good credentials, or with a folder header of another folder."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    kind, value = kind.lower(), value.strip()
    if kind == "api-key" or (kind == "bearer" and dialect is COMPATIBLE and not value.startswith("t1.")):
        _check_api_key(value, dialect)
    elif kind == "bearer" and value.startswith("t1."):
        token = state.token(value)
        if token is None:
            raise dialect.refuse(UNAUTHENTICATED, "The token is invalid")
        if token.expires_at <= state.now():
            raise dialect.refuse(UNAUTHENTICATED, "Token is invalid or has expired.")
    else:
        raise dialect.refuse(UNAUTHENTICATED, NO_CREDENTIALS)
    for name in ("x-folder-id", "openai-project", "x-project"):
        if folder := headers.get(name):
            check_folder(state, folder, dialect)


def _check_api_key(value: str, dialect: YandexDialect) -> None:
    if value == credentials.SANDBOX_YANDEX_EXPIRED_API_KEY:
        raise dialect.refuse(UNAUTHENTICATED, "The apikey has expired")
    if value != credentials.SANDBOX_YANDEX_API_KEY:
        raise dialect.refuse(UNAUTHENTICATED, "Unknown api key")


def check_folder(state: SandboxState, folder: str, dialect: YandexDialect) -> None:
    own = state.config.folder
    if folder != own:
        text = f"Specified folder ID '{folder}' does not match with service account folder ID '{own}'"
        raise dialect.refuse(INVALID_ARGUMENT, text)


def check_rate(state: SandboxState, what: str, per_s: int | None, dialect: YandexDialect) -> None:
    if not state.admit(f"yandex {what}", per_s):
        raise dialect.refuse(RESOURCE_EXHAUSTED, RATE_EXCEEDED.format(what, per_s))
