"""What choosing the candidates of a request costs, in microseconds, best of sixty runs: `python bench/routing_cost.py`."""

import tempfile
from pathlib import Path
from timeit import repeat
from typing import Final

from xrouter.catalog import Catalog
from xrouter.config.load import load
from xrouter.context import Principal
from xrouter.providers.upstreams import build_upstreams
from xrouter.routing.candidates import Asking, Chooser
from xrouter.routing.health import Health
from xrouter.surfaces.openai import read_call
from xrouter.wire import encode_json
from xrouter.world import RealWorld

_CALLS: Final = 200  # in one run: short enough to lie between two interruptions
_ROUTES: Final = (2, 20)
_KINDS: Final[dict[str, tuple[str, str | None, dict[str, object]]]] = {
    "order as written": ("order", None, {}),
    "weighted": ("weighted", None, {}),
    "weighted, a conversation": ("weighted", "key:conversation", {}),
    "least busy": ("least_busy", None, {}),
    "latency": ("latency", None, {}),
    "cheapest": ("cheapest", None, {}),
    "provider.ignore and order": ("order", None, {"ignore": ["u0"], "order": ["u1"]}),
    "provider.sort by price": ("order", None, {"sort": "price"}),
}


def config(balance: str, routes: int) -> str:
    upstreams = "\n".join(
        f'  u{number}: {{provider: openai, base_url: "http://127.0.0.1:{number + 1}/v1"}}' for number in range(routes)
    )
    served = ", ".join(f"{{upstream: u{number}, model: m, weight: {number + 1}}}" for number in range(routes))
    return f"""
upstreams:
{upstreams}
models:
  a/b: {{price: {{input: "1", output: "2"}}, balance: {balance}, routes: [{served}]}}
filters: [{{auth: {{}}}}, {{body: {{}}}}, {{routing: {{}}}}]
"""


def cost_us(balance: str, session: str | None, provider: dict[str, object], routes: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.yaml"
        path.write_text(config(balance, routes))
        settings = load(path, {})
    world = RealWorld()
    catalog, health = Catalog(settings), Health(world)
    for number in range(routes):  # as in a running gateway: something is known of every place
        place = (f"u{number}", "m")
        health.begin(place)
        health.succeeded(place, first_token_s=0.1 + number / 100, duration_s=1.0, output_tokens=50)
    chooser = Chooser(settings, catalog, build_upstreams(settings.upstreams, world), health, world)
    body: dict[str, object] = {"model": "a/b", "messages": [{"role": "user", "content": "x"}]}
    call = read_call("chat", encode_json({**body, "provider": provider} if provider else body))
    asking = Asking(call, Principal("k", "acme"), session, world.now())
    chooser.candidates(asking)
    return min(repeat(lambda: chooser.candidates(asking), number=_CALLS, repeat=60)) / _CALLS * 1e6


def main() -> None:
    print("| order of routes | " + " | ".join(f"{routes} routes" for routes in _ROUTES) + " |")
    print("|---|" + "---|" * len(_ROUTES))
    for name, (balance, session, provider) in _KINDS.items():
        costs = [f"{cost_us(balance, session, provider, routes):.1f}" for routes in _ROUTES]
        print(f"| {name} | {' | '.join(costs)} |")


if __name__ == "__main__":
    main()
