"""How long to wait before another round over the targets."""

from xrouter.world import World

_FIRST_S = 0.5
_LONGEST_S = 20.0


def retry_wait_s(round_: int, retry_after_s: float, world: World) -> float:
    """Exponential with full jitter on its upper half, and never less than an upstream asked for.

    0.5 s, 1 s, 2 s … (GigaChat's own SDK starts there), each shortened by up to a half so that a crowd spreads out.
    """
    backoff: float = min(_FIRST_S * 2**round_, _LONGEST_S)
    return max(backoff * (0.5 + world.random() / 2), retry_after_s)
