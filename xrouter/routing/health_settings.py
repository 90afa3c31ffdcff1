"""When a place is left alone, as the routing filter's configuration says it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """The breaker of one upstream's model.

    It opens for `open_s` after `failures` in a row; each probe that fails doubles that, up to `max_open_s`. A first token
    that takes longer than `slow_s` counts as a failure (None: it never does).
    """

    failures: int = 5
    open_s: float = 10.0
    max_open_s: float = 300.0
    slow_s: float | None = None

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ValueError("failures has to be at least 1")
        if self.open_s <= 0:
            raise ValueError("open_s has to be more than 0")
        if self.slow_s is not None and self.slow_s <= 0:
            raise ValueError("slow_s has to be more than 0")


@dataclass(frozen=True, slots=True)
class OutlierSettings:
    """Ejection by share: of at least `min_requests` ended within `window_s`, `error_rate` or more have failed."""

    window_s: float = 30.0
    min_requests: int = 20
    error_rate: float = 0.5

    def __post_init__(self) -> None:
        if self.window_s < 1:
            raise ValueError("window_s has to be at least 1")
        if self.min_requests < 1:
            raise ValueError("min_requests has to be at least 1")
        if not 0 < self.error_rate <= 1:
            raise ValueError("error_rate has to be more than 0 and at most 1")


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """`panic`: the share of a request's candidates above which ejections are ignored: then the fault is likely elsewhere."""

    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    outlier: OutlierSettings | None = field(default_factory=OutlierSettings)
    panic: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.panic <= 1:
            raise ValueError("panic has to be between 0 and 1")
