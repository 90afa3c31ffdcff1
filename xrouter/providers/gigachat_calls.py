"""Function calls across the two protocols: ids, arguments and results.

OpenAI's calls have an id and arguments as JSON text; GigaChat's have arguments as an object, no id, and a state id that the
specification wants back with the history. The state id travels inside the call's id, so that nothing is stored here.
"""

import re
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Raw

from xrouter.wire import decode_json, encode_json
from xrouter.world import World

_EMPTY_OBJECT: Final = "{}"
_WITH_STATE: Final = re.compile(r"call_([0-9a-f]{32})")


def call_id(state_id: str | None, world: World) -> str:
    """`call_` and the state id without dashes, or `call_` and 24 random hexadecimal digits where there is none."""
    try:
        return f"call_{UUID(state_id).hex}" if state_id else f"call_{world.random_bytes(12).hex()}"
    except ValueError:
        return f"call_{world.random_bytes(12).hex()}"


def read_state_id(call_id: str) -> str | None:
    """The state id inside an id made by `call_id`; None if there is none."""
    found = _WITH_STATE.fullmatch(call_id)
    return str(UUID(found[1])) if found else None


def object_text(text: str, key: str) -> str:
    """`text` as JSON of an object, which GigaChat wants: itself if it is one, else below `key`; '{}' for nothing."""
    if not text.strip():
        return _EMPTY_OBJECT
    try:
        value = decode_json(text)
    except (ValueError, RecursionError):
        value = text
    if isinstance(value, dict):
        return text
    return _EMPTY_OBJECT if value is None else encode_json({key: value}).decode()


def arguments_text(raw: Raw) -> str:
    """A call's arguments as OpenAI has them, JSON text. An object is written out, a string is such text already.

    Letters are never escaped. Raises ValueError or RecursionError for what is no JSON.
    """
    value = msgspec.json.decode(raw)
    if isinstance(value, str):
        return value
    return _EMPTY_OBJECT if value is None else encode_json(value).decode()
