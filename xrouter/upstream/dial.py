"""Making a connection: name resolution, the race between addresses, TCP, TLS. The errors of all four, mapped.

uvloop's `create_connection` tries one address after another and lets a dead IPv6 route eat the whole time limit, so the race
is run here, the same on every loop (RFC 8305, "Happy Eyeballs").
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import TypeVar

from xrouter.errors import UpstreamTimeout, UpstreamUnreachable
from xrouter.upstream.target import Origin

_STAGGER_S = 0.25  # RFC 8305 section 5, "Connection Attempt Delay"
_HANDSHAKE_SPARE_S = 5.0  # asyncio's own limit on the handshake stays behind ours, whose error says more

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


P = TypeVar("P", bound=asyncio.Protocol)


async def dial(
    origin: Origin, tls: ssl.SSLContext | None, protocol: Callable[[], P], connect_s: float, total_at: float
) -> P:
    """A connection to `origin`, within `connect_s` and before `total_at` on the loop's clock. TLS is part of it.

    Raises UpstreamTimeout, or UpstreamUnreachable for everything else that can go wrong: nothing has been sent then.
    """
    loop = asyncio.get_running_loop()
    connect_at = loop.time() + connect_s
    limit = "connect_s" if connect_at <= total_at else "total_s"
    try:
        async with asyncio.timeout_at(min(connect_at, total_at)):
            sock = await _race(await _resolve(origin))
            _, made = await loop.create_connection(
                protocol,
                sock=sock,
                ssl=tls,
                server_hostname=origin.host if tls is not None else None,
                ssl_handshake_timeout=connect_s + _HANDSHAKE_SPARE_S if tls is not None else None,
            )
            return made
    except TimeoutError as error:
        # Also what the kernel raises (ETIMEDOUT) when it gives up before us.
        raise UpstreamTimeout(detail=f"{origin}: {limit} has passed before there was a connection") from error
    except ssl.SSLCertVerificationError as error:
        raise UpstreamUnreachable(
            "The upstream's certificate is not trusted", detail=f"{origin}: {error.verify_message}"
        ) from error
    except (OSError, ssl.CertificateError, UnicodeError) as error:
        raise UpstreamUnreachable(detail=f"{origin}: {error!r}") from error


async def _resolve(origin: Origin) -> Sequence[Address]:
    """The addresses of a host, families alternating, in the order of the system's preference (RFC 8305 section 4)."""
    try:
        ipaddress.ip_address(origin.host)
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    else:  # no name, no look-up, no thread
        found = socket.getaddrinfo(
            origin.host, origin.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    addresses = [(family, address) for family, _, _, _, address in found]
    first = [entry for entry in addresses if entry[0] == addresses[0][0]]
    others = [entry for entry in addresses if entry[0] != addresses[0][0]]
    return [entry for entry in chain.from_iterable(zip_longest(first, others)) if entry is not None]


async def _race(addresses: Sequence[Address]) -> socket.socket:
    """The first socket to be connected. Raises the last OSError if there is none."""
    if len(addresses) == 1:
        return await _connect(addresses[0])
    attempts: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException = OSError("the name has no address")
    try:
        for position, address in enumerate(addresses, 1):
            attempts.add(asyncio.create_task(_connect(address)))
            stagger_s = _STAGGER_S if position < len(addresses) else None
            while attempts:
                done, attempts = await asyncio.wait(attempts, timeout=stagger_s, return_when=asyncio.FIRST_COMPLETED)
                won = [attempt for attempt in done if attempt.exception() is None]
                attempts.update(won[1:])  # closed below with the others
                if won:
                    return won[0].result()
                failure = next((attempt.exception() or failure for attempt in done), failure)
                if stagger_s is not None:
                    break  # the time is up or an attempt has failed: it is the next address's turn
        raise failure
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_discard)


async def _connect(address: Address) -> socket.socket:
    sock = socket.socket(address[0], socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.get_running_loop().sock_connect(sock, address[1])
    except BaseException:
        sock.close()
        raise
    return sock


def _discard(attempt: "asyncio.Task[socket.socket]") -> None:
    """A loser of the race: close what it has connected all the same."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
