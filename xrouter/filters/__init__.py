"""One file per filter, pure ASGI."""
