"""The shape of a key: `xr-<tier>-<random>-<checksum>`.

    xr-free-4hQ0…33 letters and digits…-2bX0aZ

The checksum keeps typing errors and cut copies from costing a look-up; it is public and proves nothing. It is a CRC-32,
which finds every error that is confined to 32 bits, so every wrong character and every two exchanged neighbours; a part of
a cryptographic hash would only probably find them.
"""

import re
import secrets
import string
import zlib
from hashlib import sha256
from typing import Final

from xrouter.secret import Secret
from xrouter.store.key import LONGEST_TIER

_BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_LENGTH: Final = 33  # log2(62) · 33 = 196 bits
_CHECKSUM_LENGTH: Final = 6  # 62⁶ > 2³²
_SHAPE: Final = re.compile(
    rf"(xr-[a-z0-9_]{{1,{LONGEST_TIER}}}-[0-9A-Za-z]{{{_RANDOM_LENGTH}}})-([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})", re.ASCII
)
_NO_TIER: Final = "default"


def new_secret(tier: str | None) -> Secret:
    """A new key's secret. The tier in it is for people; the one that counts is stored with the key."""
    body = f"xr-{tier or _NO_TIER}-" + "".join(secrets.choice(_BASE62) for _ in range(_RANDOM_LENGTH))
    return Secret(f"{body}-{_checksum(body)}")


def has_shape(text: str) -> bool:
    """Whether `text` looks like a key. What fails here reaches no cache, and costs no more if it is long."""
    return _SHAPE.fullmatch(text) is not None


def is_wellformed(text: str) -> bool:
    """Whether `text` may be a key: its checksum is right too. What fails here costs no look-up in the database."""
    match = _SHAPE.fullmatch(text)
    return match is not None and _checksum(match[1]) == match[2]


def digest(text: str) -> bytes:
    """The 32 bytes by which a key is known. Over the whole secret, so that two keys never share them.

    A plain SHA-256: slow hashes and salt protect what people think up. Nobody guesses 196 random bits, and each request
    pays for this. It also makes the comparison safe: who cannot choose the digest learns nothing from how much of it agrees.
    """
    return sha256(text.encode()).digest()


def label(text: str) -> str:
    """The secret with its middle left out, `xr-free-4hQ…X0aZ`: enough to tell keys apart, 150 bits short of the secret."""
    head, _, _ = text.rpartition("-")
    return f"{head[: -_RANDOM_LENGTH + 3]}…{text[-4:]}"


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, 62)
        digits = _BASE62[digit] + digits
    return digits
