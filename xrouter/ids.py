"""Identifiers that sort by the time of their making, so that rows of one hour lie together in an index."""

from typing import Final

from xrouter.world import World

_VARIANT_1: Final = {f"{digit:x}": "89ab"[digit & 0b11] for digit in range(16)}  # its two highest bits are 10


def time_ordered(world: World) -> str:
    """26 hexadecimal digits: 48 bits of milliseconds, then 56 random bits."""
    return (int(world.now() * 1000).to_bytes(6, "big") + world.random_bytes(7)).hex()


def generation_id(world: World) -> str:
    """`gen-` and a time-ordered id: names one generation in answers, headers, logs and the ledger."""
    return "gen-" + time_ordered(world)


def first_generation_id(at_us: int) -> str:
    """What sorts after the ids of all generations made before that time, and before all others."""
    return f"gen-{max(0, at_us) // 1000:012x}"


def uuid4(world: World) -> str:
    """A random UUID (RFC 9562, version 4) drawn from `world`: what the providers ask for as request ids."""
    digits = world.random_bytes(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT_1[digits[16]]}{digits[17:20]}-{digits[20:]}"
