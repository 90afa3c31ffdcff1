"""How the upstreams are, as `GET /health` tells it to an operator."""

from collections.abc import Mapping
from typing import Any

from xrouter.providers.upstreams import Upstream
from xrouter.routing.health import Health
from xrouter.upstream.credentials import Credentials


def upstream_components(upstreams: Mapping[str, Upstream], health: Health, now: float) -> dict[str, dict[str, Any]]:
    """By `upstream:<its name>`. `now`: monotonic."""
    open_places = health.open()
    components: dict[str, dict[str, Any]] = {}
    for name, upstream in upstreams.items():
        left_alone = [model for place, model in open_places if place == name]
        components[f"upstream:{name}"] = {
            "status": "failing" if left_alone else "ok",
            "models_left_alone": left_alone,
            "calls_active": upstream.credentials.active,
            "calls_waiting": upstream.credentials.waiting,
            **({"credentials": _credentials(upstream.credentials, now)} if upstream.credentials.several else {}),
        }
    return components


def _credentials(credentials: Credentials, now: float) -> list[dict[str, Any]]:
    """By their place in the configuration's list. `models_resting`: those that the provider denies it; `*` is all."""
    return [
        {
            "index": credential.index,
            "status": "resting" if credential.rests_for_s(now) else "ok",
            "models_resting": credential.resting(now),
            "rests_for_s": round(credential.rests_for_s(now), 3),
            "calls_active": credential.caller.gate.active,
            "calls_waiting": credential.caller.gate.waiting,
        }
        for credential in credentials.all
    ]
