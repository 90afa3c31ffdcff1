"""Secrets that are found again wherever they turn up: unique values, looked for in twelve encodings (fault matrix F36)."""

import base64
import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

_PART: Final = 12  # so many characters of a secret's middle are a leak too


def _aligned(value: str, offset: int) -> str:
    """The part of base64 text that `value` determines alone, when `offset` bytes stand before it."""
    text = base64.b64encode(b"\0" * offset + value.encode()).decode().rstrip("=")
    return text[(0, 2, 3)[offset] : -1]


ENCODINGS: Final[Mapping[str, Callable[[str], bytes]]] = {
    "plain": lambda value: value.encode(),
    "part": lambda value: value[len(value) // 3 : len(value) // 3 + _PART].encode(),
    "reversed": lambda value: value[::-1].encode(),
    "upper": lambda value: value.upper().encode(),
    "base64": lambda value: _aligned(value, 0).encode(),
    "base64-1": lambda value: _aligned(value, 1).encode(),
    "base64-2": lambda value: _aligned(value, 2).encode(),
    "base64-url": lambda value: base64.urlsafe_b64encode(value.encode()).rstrip(b"=")[:-1],
    "hex": lambda value: value.encode().hex().encode(),
    "percent": lambda value: "".join(f"%{byte:02X}" for byte in value.encode()).encode(),
    "entities": lambda value: "".join(f"&#{ord(letter)};" for letter in value).encode(),
    "utf-16": lambda value: value.encode("utf-16-le"),
}


class Canaries:
    """One secret a slot. `new` makes a value that looks like a key and occurs nowhere else."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def new(self, slot: str, prefix: str = "sk-") -> str:
        value = f"{prefix}CaNaRy{len(self._values):02d}{''.join(reversed(slot.title()))}q9Zx7Kp3Vb5Tj1Wm"
        return self.watch(slot, re.sub(r"[^A-Za-z0-9-]", "", value))

    def watch(self, slot: str, value: str) -> str:
        """A secret that somebody else has made."""
        assert len(value) >= _PART
        self._values[slot] = value
        return value

    def found_in(self, data: bytes | str, *, where: str) -> list[str]:
        """Every slot whose secret stands in `data`, with the encoding. Quoting and the case of hex digits do not hide it."""
        text = data.encode() if isinstance(data, str) else data
        views = (text, text.lower().replace(b"\\/", b"/"), text.replace(b"\\u00", b"%"))
        return [
            f"{slot} as {name} in {where}"
            for slot, value in self._values.items()
            for name, encode in ENCODINGS.items()
            if any(encode(value) in view for view in views)
        ]

    def shapes(self, slot: str) -> dict[str, str]:
        """The secret in every encoding, as text that an upstream could answer with."""
        value = self._values[slot]
        found = {name: encode(value).decode("latin-1") for name, encode in ENCODINGS.items() if name != "utf-16"}
        return {
            **found,
            "quoted": quote(f"key={value}&x"),
            "sentence": f"Incorrect API key provided: {value}. Get one.",
        }
