"""Bodies that make or move something, read strictly: an unknown field or a doubtful amount is refused, by its name."""

from decimal import Decimal
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from xrouter.errors import BadRequest
from xrouter.store.amounts import NANO_PER_CREDIT
from xrouter.surfaces.strict_json import decode_object, field_fault

_T = TypeVar("_T", bound=Struct)
_MOST_CREDITS: Final = 2**63 // NANO_PER_CREDIT - 1
_decode_exact: Final = msgspec.json.Decoder(float_hook=Decimal).decode  # 0.1 is a tenth, not the double next to it


def read_struct(raw: bytes, shape: type[_T]) -> _T:
    """Raises BadRequest, naming the field."""
    decode_object(raw)  # whatever two readers could read differently is refused
    try:
        return msgspec.convert(_decode_exact(raw), shape)
    except msgspec.ValidationError as error:
        raise field_fault(error) from None


def read_amount(value: object, param: str, *, signed: bool = False) -> int:
    """Nanocredits of a JSON number of credits, exactly; negative ones where it is `signed`. Raises BadRequest."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise BadRequest(f"`{param}` is a JSON number of credits", param=param)
    least = -_MOST_CREDITS if signed else 0
    if not least <= value <= _MOST_CREDITS:
        raise BadRequest(f"`{param}` is from {least} to {_MOST_CREDITS} credits", param=param)
    nano = Decimal(value).scaleb(9)
    if nano != nano.to_integral_value():
        raise BadRequest(f"`{param}` has at most 9 decimals", param=param)
    return int(nano)
