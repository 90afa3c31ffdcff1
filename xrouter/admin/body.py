"""The body of a request to the admin API, as much of it as any may have."""

from typing import Final

from starlette.requests import Request

from xrouter.errors import PayloadTooLarge

_LARGEST_BYTES: Final = 20 * 1000 * 1000


async def read_body(request: Request) -> bytes:
    """Raises PayloadTooLarge before more than the bound is read."""
    read = bytearray()
    async for piece in request.stream():
        read += piece
        if len(read) > _LARGEST_BYTES:
            raise PayloadTooLarge(f"The request body is larger than {_LARGEST_BYTES} bytes")
    return bytes(read)
