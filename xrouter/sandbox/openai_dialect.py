"""OpenAI's errors, response headers and key check."""

import http
from typing import Any

from xrouter.sandbox import credentials
from xrouter.sandbox.reply import Header, Refusal, Reply, json_reply, sse
from xrouter.sandbox.state import SandboxState

PREFIX = "/openai"

_KINDS = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    402: "insufficient_quota",
    403: "permission_error",
}
_KINDS |= {404: "invalid_request_error", 413: "invalid_request_error", 429: "rate_limit_error"}

_MESSAGES = {
    401: "Incorrect API key provided. You can find your API key in the sandbox's documentation.",
    402: "You exceeded your current quota, please check your plan and billing details.",
    429: "Rate limit reached for requests",
    500: "The server had an error while processing your request. Sorry about that!",
    503: "The engine is currently overloaded, please try again later",
}


def error(message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class OpenAIDialect:
    name = "openai"

    def headers(self, state: SandboxState, request: dict[str, str]) -> tuple[Header, ...]:
        return (("x-request-id", "req_" + state.unique_id("openai request").hex), ("openai-processing-ms", "1"))

    def failure(self, status: int, message: str | None = None) -> Reply:
        phrase = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "Error"
        return json_reply(error(message or _MESSAGES.get(status, phrase), _KINDS.get(status, "server_error")), status)

    def failure_in_success(self) -> Reply:
        return json_reply(error(_MESSAGES[500], "server_error"))

    def failure_frame(self) -> bytes:
        return sse(error(_MESSAGES[500], "server_error"))


API = OpenAIDialect()


def refuse(status: int, message: str, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(json_reply(error(message, _KINDS.get(status, "server_error"), param, code), status))


def authorised(headers: dict[str, str]) -> None:
    """Refuse a request without the sandbox's key."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not key.strip():
        raise refuse(
            401, "You didn't provide an API key. You need to provide it in an Authorization header as a Bearer token."
        )
    if key.strip() != credentials.SANDBOX_OPENAI_KEY:
        raise refuse(401, _MESSAGES[401], code="invalid_api_key")


def no_such_model(model: str) -> Refusal:
    text = f"The model `{model}` does not exist or you do not have access to it."
    return refuse(404, text, "model", "model_not_found")
