"""Values from a query string."""

from collections.abc import Mapping

from xrouter.errors import BadRequest

_FLAGS = {"": False, "false": False, "0": False, "true": True, "1": True}


def whole_number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    """A number of at most `most`; a larger one counts as `most`. Raises BadRequest."""
    text = query.get(name)
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise BadRequest(f"{name} has to be a whole number", param=name)
    return min(int(text), most)


def flag(query: Mapping[str, str], name: str) -> bool:
    """`true` or `false`; false where it is left out. Raises BadRequest."""
    value = _FLAGS.get(query.get(name, "").lower())
    if value is None:
        raise BadRequest(f"{name} is true or false", param=name)
    return value
