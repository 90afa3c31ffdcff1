"""Identifiers that sort by the time of their making, so that rows of one hour lie together in an index."""

from xrouter.world import World


def time_ordered(world: World) -> str:
    """26 hexadecimal digits: 48 bits of milliseconds, then 56 random bits."""
    return f"{int(world.now() * 1000):012x}{world.random_bytes(7).hex()}"


def generation_id(world: World) -> str:
    """`gen-` and a time-ordered id: names one generation in answers, headers, logs and the ledger."""
    return "gen-" + time_ordered(world)


def first_generation_id(at_us: int) -> str:
    """What sorts after the ids of all generations made before that time, and before all others."""
    return f"gen-{max(0, at_us) // 1000:012x}"


def uuid4(world: World) -> str:
    """A random UUID (RFC 9562, version 4) drawn from `world`: what the providers ask for as request ids."""
    value = int.from_bytes(world.random_bytes(16)) & ~(0xF << 76) | 4 << 76
    value = value & ~(0b11 << 62) | 0b10 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
