"""Every way in which a request can be refused or fail, with its status, its type and who caused it.

    XRouterError
    ├── BadRequest 400 ── ContextLengthExceeded 400
    ├── Unauthorized 401
    ├── PaymentRequired 402
    ├── Forbidden 403
    ├── NotFound 404 ── ModelNotFound 404
    ├── MethodNotAllowed 405
    ├── RequestTimeout 408
    ├── Conflict 409
    ├── PayloadTooLarge 413
    ├── Unprocessable 422
    ├── RateLimited 429
    ├── InternalError 500
    ├── ShuttingDown 503
    ├── StoreUnavailable 503
    └── UpstreamError 502 (or the status that fits)
        ├── UpstreamAuthError 502      our own credentials were refused
        ├── UpstreamQuotaExhausted 402 the provider's package of tokens is used up
        ├── UpstreamTimeout 504
        ├── UpstreamProtocolError 502  an answer that is not the provider's protocol
        ├── UpstreamUnreachable 502    no connection; nothing was sent
        └── NoUpstreamAvailable 503

Filters and translators raise these; `edge` alone turns one into an answer. A message is written for the client: it never
holds a secret, a provider's raw text that may hold one, or another tenant's data. What only the operator may read goes
into `detail`, which is logged.
"""

from enum import StrEnum
from typing import Any, ClassVar

import msgspec


class Origin(StrEnum):
    """Who has to act for the error to go away."""

    CLIENT = "client"
    POLICY = "policy"
    UPSTREAM = "upstream"
    INTERNAL = "internal"


class XRouterError(Exception):
    """An answer other than success.

    `retry_after_s`: sent as `Retry-After`. `param`: the request field at fault. `detail`: for the operator's log only.
    """

    status: int = 500
    type: str = "internal_error"
    origin: Origin = Origin.INTERNAL
    error_type: ClassVar[str] = "server"  # OpenRouter's enumeration, in error.metadata.error_type
    message: str = "Internal error"

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        detail: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message or self.message)
        self.message = message or self.message
        self.param = param
        self.retry_after_s = retry_after_s
        self.detail = detail
        self.metadata = {"error_type": self.error_type, **(metadata or {})}

    def body(self) -> dict[str, Any]:
        """The `{"error": …}` object of the HTTP contract."""
        return {
            "error": {
                "code": self.status,
                "type": self.type,
                "message": self.message,
                "param": self.param,
                "metadata": self.metadata,
            }
        }

    def encoded(self) -> bytes:
        return msgspec.json.encode(self.body())


class BadRequest(XRouterError):
    status, type, origin, error_type = 400, "invalid_request_error", Origin.CLIENT, "invalid_request"
    message = "The request is not valid"


class ContextLengthExceeded(BadRequest):
    type, error_type = "context_length_exceeded", "context_length_exceeded"
    message = "The request is longer than the model's context"


class Unauthorized(XRouterError):
    status, type, origin, error_type = 401, "authentication_error", Origin.CLIENT, "authentication"
    message = "Missing or invalid API key"


class PaymentRequired(XRouterError):
    status, type, origin, error_type = 402, "insufficient_credits", Origin.POLICY, "payment_required"
    message = "Not enough credits"


class Forbidden(XRouterError):
    status, type, origin, error_type = 403, "permission_denied", Origin.POLICY, "permission_denied"
    message = "This key may not do that"


class NotFound(XRouterError):
    status, type, origin, error_type = 404, "not_found", Origin.CLIENT, "not_found"
    message = "Not found"


class ModelNotFound(NotFound):
    type = "model_not_found"
    message = "No such model"


class MethodNotAllowed(XRouterError):
    status, type, origin, error_type = 405, "method_not_allowed", Origin.CLIENT, "invalid_request"
    message = "This path does not take this method"


class RequestTimeout(XRouterError):
    status, type, origin, error_type = 408, "request_timeout", Origin.CLIENT, "timeout"
    message = "The request did not arrive in time"


class Conflict(XRouterError):
    status, type, origin, error_type = 409, "conflict", Origin.CLIENT, "invalid_request"
    message = "The same request is under way or done already"


class PayloadTooLarge(XRouterError):
    status, type, origin, error_type = 413, "payload_too_large", Origin.CLIENT, "payload_too_large"
    message = "The request body is too large"


class Unprocessable(XRouterError):
    status, type, origin, error_type = 422, "unprocessable", Origin.CLIENT, "unprocessable"
    message = "The request contradicts an earlier one"


class RateLimited(XRouterError):
    status, type, origin, error_type = 429, "rate_limit_exceeded", Origin.POLICY, "rate_limit_exceeded"
    message = "Too many requests"


class InternalError(XRouterError):
    message = "Internal error; the request id leads to it in the gateway's log"


class ShuttingDown(XRouterError):
    status, type, error_type = 503, "shutting_down", "provider_unavailable"
    message = "The gateway is shutting down; try again"


class StoreUnavailable(XRouterError):
    status, type, error_type = 503, "store_unavailable", "provider_unavailable"
    message = "The gateway cannot reach its database; try again"


class UpstreamError(XRouterError):
    """The upstream failed, so another one may be tried. `retry`: whether the same one may be tried again as well."""

    status, type, origin, error_type = 502, "upstream_error", Origin.UPSTREAM, "provider_unavailable"
    message = "The upstream failed"
    kind: ClassVar[str] = "status"  # label of the metric xrouter_upstream_errors_total
    retry: bool = True

    def __init__(
        self,
        message: str | None = None,
        *,
        status: int | None = None,
        type: str | None = None,
        retry: bool | None = None,
        upstream_status: int | None = None,
        retry_after_s: float | None = None,
        detail: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, detail=detail, metadata=metadata)
        self.status = status or self.status
        self.type = type or self.type
        self.retry = self.retry if retry is None else retry
        self.upstream_status = upstream_status


class UpstreamAuthError(UpstreamError):
    """The provider refused the gateway's credentials: the operator's to mend, never the client's."""

    type = "upstream_auth_error"
    message = "The upstream refused the gateway's own credentials"
    kind = "auth"


class UpstreamQuotaExhausted(UpstreamError):
    status, type, error_type = 402, "insufficient_quota", "payment_required"
    message = "The gateway's quota at the upstream is used up"
    kind = "quota"
    retry = False


class UpstreamTimeout(UpstreamError):
    status, type, error_type = 504, "upstream_timeout", "timeout"
    message = "The upstream did not answer in time"
    kind = "timeout"


class UpstreamProtocolError(UpstreamError):
    type = "upstream_protocol_error"
    message = "The upstream's answer could not be understood"
    kind = "protocol"


class UpstreamUnreachable(UpstreamError):
    message = "The upstream could not be reached"
    kind = "connect"


class NoUpstreamAvailable(UpstreamError):
    status, type = 503, "no_upstream_available"
    message = "No upstream is available for this model"
