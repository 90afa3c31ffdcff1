"""A `Health` whose time the test moves, and calls that end in one line."""

from kit.keys import HandWorld

from xrouter.routing.health import Health, Place
from xrouter.routing.health_breaker import Ejection


class Watched:
    def __init__(self) -> None:
        self.world = HandWorld()
        self.health = Health(self.world)

    def serve(
        self,
        place: Place,
        times: int = 1,
        *,
        first_token_s: float | None = 0.1,
        duration_s: float = 0.0,
        output_tokens: int | None = 10,
    ) -> None:
        for _ in range(times):
            self.health.begin(place)
            self.health.succeeded(
                place, first_token_s=first_token_s, duration_s=duration_s, output_tokens=output_tokens
            )

    def fail(self, place: Place, times: int = 1, *, kind: str = "status", retry_after_s: float | None = None) -> None:
        for _ in range(times):
            self.health.begin(place)
            self.health.failed(place, kind, retry_after_s)


class Told:
    """What the listener of a `Health` is told: the length of each ejection, None for an end."""

    def __init__(self, health: Health) -> None:
        self.lengths: list[float | None] = []
        health.on_change = self._note

    def _note(self, place: Place, ejection: Ejection | None) -> None:
        self.lengths.append(None if ejection is None else ejection.open_s)
