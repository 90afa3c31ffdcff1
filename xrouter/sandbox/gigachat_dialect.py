"""GigaChat's errors and response headers (gigachat.md sections 1 and 11)."""

import http
import uuid

from xrouter.sandbox.reply import Header, Refusal, Reply, json_reply, sse
from xrouter.sandbox.state import SandboxState, Token

PREFIX = "/gigachat"

INVALID_JSON = "Your request contains invalid JSON syntax."
NO_SUCH_MODEL = "No such model"

_MESSAGES = {
    400: INVALID_JSON,
    401: "Unauthorized",
    402: "Payment Required",
    403: "Permission denied",
    404: NO_SUCH_MODEL,
    413: "Payload too large",
    422: "Invalid params",
    429: "Too many requests",
    500: "Internal Server Error",
}


class GigaChatDialect:
    """`{"status": …, "message": …}`; the OAuth server says `code` where the API says `status`."""

    name = "gigachat"

    def __init__(self, *, oauth: bool = False) -> None:
        self._key = "code" if oauth else "status"

    def headers(self, state: SandboxState, request: dict[str, str]) -> tuple[Header, ...]:
        """`x-request-id` and `x-session-id`, echoed or fresh."""
        return (
            ("x-request-id", request.get("x-request-id") or str(state.unique_id("request"))),
            ("x-session-id", request.get("x-session-id") or str(state.unique_id("session"))),
        )

    def failure(self, status: int, message: str | None = None) -> Reply:
        text = message or _MESSAGES.get(status) or http.HTTPStatus(status).phrase
        return json_reply({self._key: status, "message": text}, status)

    def failure_in_success(self) -> Reply:
        return json_reply({self._key: 500, "message": _MESSAGES[500]})

    def failure_frame(self) -> bytes:
        return sse({"status": 500, "message": _MESSAGES[500]})


API = GigaChatDialect()
OAUTH = GigaChatDialect(oauth=True)


def refuse(status: int, message: str | None = None) -> Refusal:
    return Refusal(API.failure(status, message))


def invalid(message: str) -> Refusal:
    """422 `Invalid params: …`."""
    return refuse(422, f"Invalid params: {message}")


def authorised(state: SandboxState, headers: dict[str, str]) -> Token:
    """Whose request this is. Raises Refusal as the API's front does, before it looks at anything else."""
    if state.config.require_user_agent and not headers.get("user-agent"):
        raise Refusal(json_reply({"message": "Unauthorized"}, 403))
    kind, _, value = headers.get("authorization", "").partition(" ")
    token = state.token(value.strip()) if kind.lower() == "bearer" else None
    if token is None:
        raise refuse(401)
    if token.expires_at <= state.now():
        raise refuse(401, "Token has expired")
    return token


def is_uuid4(text: str) -> bool:
    try:
        return uuid.UUID(text).version == 4 and len(text) == 36
    except ValueError:
        return False
