"""`Retry-After` as providers send it (RFC 9110, section 10.2.3): seconds, or a date."""

from datetime import UTC
from email.utils import parsedate_to_datetime

from xrouter.upstream.base import Headers, header
from xrouter.world import World

_MAX_S = 3600.0  # a longer wait is no use to anybody, and a wrong clock easily asks for one


def retry_after_s(headers: Headers, world: World) -> float | None:
    """The seconds to wait, at most an hour; None where the header is absent or cannot be read."""
    value = header(headers, b"retry-after")
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _MAX_S)
    try:
        moment = parsedate_to_datetime(text)
        wait_s = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - world.now()
    except (ValueError, OverflowError):
        return None
    return min(max(wait_s, 0.0), _MAX_S)
