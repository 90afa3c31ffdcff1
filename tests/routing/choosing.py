"""Candidates of requests under a configuration in a few lines."""

from pathlib import Path
from typing import Any

from kit.seeded import SeededWorld

from xrouter.catalog import Catalog
from xrouter.config.load import load
from xrouter.context import Principal
from xrouter.providers.upstreams import build_upstreams
from xrouter.routing.candidates import Asking, Candidates, Chooser
from xrouter.routing.health import Health, Place
from xrouter.surfaces.openai import read_call
from xrouter.wire import encode_json


class Choosing:
    def __init__(self, text: str, folder: Path, *, seed: int = 1, fallback: bool = True) -> None:
        path = folder / "x.yaml"
        path.write_text(text + "\nfilters: [{auth: {}}, {body: {}}, {routing: {}}]\n")
        self.settings = load(path, {})
        self.world = SeededWorld(seed)
        self.catalog = Catalog(self.settings)
        self.health = Health(self.world)
        upstreams = build_upstreams(self.settings.upstreams, self.world)
        self.chooser = Chooser(self.settings, self.catalog, upstreams, self.health, self.world, fallback=fallback)

    def ask(
        self,
        model: str | None = None,
        *,
        session: str | None = None,
        tier: str | None = None,
        scope: set[str] | None = None,
        kind: str = "chat",
        **body: Any,
    ) -> Candidates:
        if model is not None:
            body["model"] = model
        fields = {"input": "x"} if kind == "embeddings" else {"messages": [{"role": "user", "content": "x"}]}
        call = read_call(kind, encode_json({**fields, **body}))
        principal = Principal("k", "acme", tier=tier, models=None if scope is None else frozenset(scope))
        return self.chooser.candidates(Asking(call, principal, session, self.world.now()))

    def upstreams(self, model: str | None = None, **asked: Any) -> list[str]:
        return [target.upstream for target in self.ask(model, **asked).ordered]

    def left_out(self, model: str | None = None, **asked: Any) -> dict[str, str]:
        return {target.upstream: reason.value for target, reason in self.ask(model, **asked).left_out}

    def served(self, place: Place, *, first_token_s: float = 0.1, tokens: int = 10, times: int = 1) -> None:
        for _ in range(times):
            self.health.begin(place)
            self.health.succeeded(place, first_token_s=first_token_s, duration_s=1.0, output_tokens=tokens)

    def ejected(self, *places: Place) -> None:
        for place in places:
            self.health.eject(place, "probe", "status", 60.0)


def upstreams(*names: str, **more: str) -> str:
    """An `upstreams` section; `more`: further keys of an upstream."""
    lines = [
        f'  {name}: {{provider: openai, base_url: "http://127.0.0.1:{place + 1}/v1"{more.get(name, "")}}}'
        for place, name in enumerate(names)
    ]
    return "\n".join(["upstreams:", *lines, ""])
