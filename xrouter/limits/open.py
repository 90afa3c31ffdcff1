"""The store of limits that a configuration asks for."""

from xrouter.config.settings import Settings
from xrouter.limits.memory import MemoryStore
from xrouter.limits.store import LimitStore
from xrouter.world import World


class RedisMissing(Exception):
    """The configuration names a Redis, and the package that speaks to one is not installed."""


def open_limits(settings: Settings, world: World) -> LimitStore:
    """Redis if the configuration has one, else this process' memory. Does no I/O: `start()` connects.

    Raises RedisMissing, and ValueError for an address that cannot be used.
    """
    if settings.redis is None:
        return MemoryStore(world)
    try:
        from xrouter.limits.redis_client import open_client
        from xrouter.limits.redis_store import RedisStore
    except ModuleNotFoundError as error:
        raise RedisMissing("`redis` needs a further package: pip install 'xrouter-gateway[redis]'") from error
    return RedisStore(open_client(settings.redis), cluster=settings.redis.startswith("redis+cluster:"))
