"""The configuration of a running gateway: where it is read again from, and what the command line put in its place."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from xrouter.config.crosscheck import workers_fault
from xrouter.config.load import decode, read
from xrouter.config.problems import ConfigError, Problem
from xrouter.config.rules import value_fault
from xrouter.config.settings import Server, Settings

_STARTED_WITH: Final = ("store", "redis")
_LISTENING: Final = ("host", "port", "workers", "reuse_port")


@dataclass(frozen=True, slots=True)
class Source:
    """`host`, `port` and `workers` as the command line gave them, None where it did not."""

    path: Path
    host: str | None = None
    port: int | None = None
    workers: int | None = None

    def load(self) -> Settings:
        """Raises ConfigError."""
        return self.settings(self.read())

    def read(self) -> bytes:
        """The file as it stands. Raises ConfigError where it cannot be read."""
        return read(self.path)

    def settings(self, text: bytes) -> Settings:
        """What the file's `text` says. Raises ConfigError."""
        settings = decode(text, self.path, os.environ)
        given = {name: getattr(self, name) for name in ("host", "port", "workers") if getattr(self, name) is not None}
        if not given:
            return settings
        faults = [(name, value_fault(Server, name, value)) for name, value in given.items()]
        if given.get("workers", 1) > 1 and settings.redis is None:
            faults.append(("workers", workers_fault(given["workers"])))
        if problems := tuple(Problem(f"--{name}", fault) for name, fault in faults if fault):
            raise ConfigError(problems)
        return replace(settings, server=replace(settings.server, **given))


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """The keys that differ and that a reload leaves as they were when the process started."""
    changed = [name for name in _STARTED_WITH if getattr(old, name) != getattr(new, name)]
    return changed + [f"server.{name}" for name in _LISTENING if getattr(old.server, name) != getattr(new.server, name)]
