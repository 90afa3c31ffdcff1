"""Everything that is wrong with a configuration, told at once, each thing at its place."""

from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """A position in a file; lines and columns count from 1, columns in characters."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """`place` is `file:line:col`. `message` is one line that never holds a secret or a variable's value."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used. `str()` is one line per problem, in the order of the file."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class Invalid(Exception):
    """A value cannot be had. Its problem has been noted, so whoever catches this goes on to look for more."""


class Problems:
    """The problems found so far. One found twice (an alias makes one node stand in two places) counts once."""

    def __init__(self) -> None:
        self._found: dict[tuple[Place, str], None] = {}

    def add(self, place: Place, message: str) -> None:
        self._found[place, " ".join(message.split())] = None

    def fail(self, place: Place, message: str) -> Invalid:
        """Note a problem and give the exception that says so: `raise problems.fail(…)`."""
        self.add(place, message)
        return Invalid(message)

    def raise_if_any(self) -> None:
        if self._found:
            raise self.error()

    def error(self) -> ConfigError:
        found = sorted(self._found, key=lambda item: item[0])
        return ConfigError(tuple(Problem(str(place), message) for place, message in found))
