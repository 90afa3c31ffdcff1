"""How often one address may be wrong: guessing keys must cost the guesser, not the database."""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from xrouter.auth.lru import Lru
from xrouter.errors import RateLimited
from xrouter.world import World

_BURST: Final = 100.0
_PER_S: Final = 10.0
_ADDRESSES: Final = 10_000
_IPV6_NETWORK_BITS: Final = 64  # what one subscriber has (RFC 6177): the rest of the address is its own to choose


@dataclass(slots=True)
class _Bucket:
    """A token bucket: `left` guesses as of `at`, monotonic seconds."""

    left: float
    at: float


class GuessLimit:
    """A look-up of a key that this process has not seen before costs its address one guess, given back if the key is there.

    100 guesses at once, then 10 a second. Keys that have been used here never meet this limit, whatever else comes from
    their address.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._buckets: Lru[str, _Bucket] = Lru(_ADDRESSES)

    def take(self, address: str) -> str:
        """Spend a guess of `address`; returns the name under which `give_back` knows it. Raises RateLimited."""
        source = _source(address)
        now = self._world.monotonic()
        bucket = self._buckets.get(source)
        if bucket is None:
            bucket = _Bucket(_BURST, now)
            self._buckets.put(source, bucket)
        bucket.left = min(_BURST, bucket.left + (now - bucket.at) * _PER_S)
        bucket.at = now
        if bucket.left < 1.0:
            raise RateLimited(
                "Too many unknown API keys from this address; try again later",
                retry_after_s=(1.0 - bucket.left) / _PER_S,
                detail=f"more than {_BURST:.0f} unknown keys from {source}",
            )
        bucket.left -= 1.0
        return source

    def give_back(self, source: str) -> None:
        if bucket := self._buckets.get(source):
            bucket.left += 1.0


def _source(address: str) -> str:
    """An IPv4 address, the /64 network of an IPv6 one, or whatever else stands for the client."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> _IPV6_NETWORK_BITS << _IPV6_NETWORK_BITS))
    return str(parsed)
