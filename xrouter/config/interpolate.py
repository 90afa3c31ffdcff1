"""`${NAME}` and `${NAME:-default}` in a scalar of the configuration.

A reference is replaced by text and the text is never parsed as YAML again, so a variable can set a value but not add a key.
As in a shell, `:-` also stands in for a variable that is set but empty. `$${` is a literal `${`; every other `$` stands for
itself, so that passwords need no escaping.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_BODY: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.ASCII | re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Fault:
    """`ordinal`: which reference of the scalar is at fault, from 0."""

    ordinal: int
    message: str


@dataclass(frozen=True, slots=True)
class Interpolated:
    """`names`: the variables that the text took part from, whether or not a default stood in."""

    text: str
    names: tuple[str, ...]
    faults: tuple[Fault, ...]


def interpolate(text: str, environ: Mapping[str, str]) -> Interpolated:
    """`text` with its references replaced. A faulty reference is replaced by nothing and reported."""
    names: list[str] = []
    faults: list[Fault] = []
    pieces: list[str] = []
    end = 0
    for ordinal, match in enumerate(REFERENCE.finditer(text)):
        pieces.append(text[end : match.start()])
        end = match.end()
        if match[0] == "$${":
            pieces.append("${")
            continue
        try:
            name, value = _resolve(match, environ)
        except ValueError as error:
            faults.append(Fault(ordinal, str(error)))
            continue
        names.append(name)
        pieces.append(value)
    pieces.append(text[end:])
    return Interpolated("".join(pieces), tuple(names), tuple(faults))


def _resolve(match: re.Match[str], environ: Mapping[str, str]) -> tuple[str, str]:
    """The variable's name and what replaces the reference. Raises ValueError, for the operator."""
    body = _BODY.fullmatch(match[1])
    if not match[2]:
        raise ValueError("'${' without its '}'; a literal one is written '$${'")
    if body is None or "${" in match[1]:
        raise ValueError("a variable is written ${NAME} or ${NAME:-default}, a literal '${' as '$${'")
    name, default = body[1], body[2]
    value = environ.get(name)
    if default is not None and not value:
        return name, default
    if value is None:
        raise ValueError(f"the environment variable {name} is not set, and there is no default: ${{{name}:-default}}")
    if _CONTROL.search(value):
        raise ValueError(f"the environment variable {name} holds a line break, a control character or no valid text")
    return name, value
