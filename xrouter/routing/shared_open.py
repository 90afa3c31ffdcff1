"""The sharing of ejections that a configuration asks for."""

from typing import TYPE_CHECKING

from xrouter.config.settings import Settings
from xrouter.routing.health import Health
from xrouter.world import World

if TYPE_CHECKING:
    from xrouter.routing.shared import SharedHealth


def open_sharing(settings: Settings, health: Health, world: World) -> "SharedHealth | None":
    """None without a Redis. Does no I/O. Raises ValueError for an address that cannot be used."""
    if settings.redis is None:
        return None
    from xrouter.limits.redis_client import open_client  # only who has a Redis pays for the import
    from xrouter.routing.shared import SharedHealth

    return SharedHealth(health, open_client(settings.redis), world)
