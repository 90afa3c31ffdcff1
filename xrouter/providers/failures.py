"""What an upstream's HTTP status means to the client, where providers agree.

| status              | the client gets                                                     | the same upstream again |
|---------------------|---------------------------------------------------------------------|-------------------------|
| 400, 422            | 400 with the upstream's reason: it explains the client's own mistake | no |
| 401                 | 502 `upstream_auth_error`: never as if the client's key were wrong  | no |
| 402                 | 402 `insufficient_quota`                                            | no |
| 403, 404            | the same status                                                     | no |
| 413                 | 400 `context_length_exceeded`                                       | no |
| 408, 504            | 504                                                                 | yes |
| 429                 | 429 with the upstream's `Retry-After`                               | yes |
| other 5xx           | 502, or 503 as it came                                              | yes |

A page instead of JSON with 400, 403, 404 or 422 is the front server's: a wrong path or address in the configuration.
"""

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


def status_error(
    status: int, said: str, *, json: bool, wait_s: float | None, detail: str, who: str = "The upstream"
) -> XRouterError:
    """The error for `status`. `said`: the provider's message, made safe; `json`: the body was its API's and not a page."""
    match status:
        case 400 | 422 if json:
            return BadRequest(f"{who} refused the request: {said}" if said else None, detail=detail)
        case 401:
            return UpstreamAuthError(retry=False, upstream_status=status, detail=detail)
        case 402:
            return UpstreamQuotaExhausted(upstream_status=status, detail=detail)
        case 403 if json:
            return UpstreamError(
                "The upstream does not permit this",
                status=403,
                type="permission_denied",
                retry=False,
                upstream_status=status,
                detail=detail,
                metadata={"error_type": "permission_denied"},
            )
        case 404 if json:
            return UpstreamError(  # the client's name for it is a known one: the operator's, or the upstream's, is not
                "The upstream does not know this model",
                status=404,
                type="model_not_found",
                retry=False,
                upstream_status=status,
                detail=detail,
                metadata={"error_type": "not_found"},
            )
        case 413:
            return ContextLengthExceeded(detail=detail)
        case 408 | 504:
            return UpstreamTimeout(upstream_status=status, retry_after_s=wait_s, detail=detail)
        case 429:
            return UpstreamError(
                "The upstream is at its limit",
                status=429,
                type="rate_limit_exceeded",
                upstream_status=status,
                retry_after_s=wait_s,
                detail=detail,
                metadata={"error_type": "rate_limit_exceeded"},
            )
        case _ if status >= 500:
            return UpstreamError(
                status=503 if status == 503 else 502, upstream_status=status, retry_after_s=wait_s, detail=detail
            )
    return UpstreamProtocolError(retry=False, upstream_status=status, detail=detail)
