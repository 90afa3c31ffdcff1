"""A provider's words made fit to show: an error text may echo the gateway's own key, or be a whole page (incident I-28)."""

import html
import re
from collections.abc import Iterable
from itertools import groupby
from typing import Final

_MAX_READ_CHARS: Final = 2000
_MAX_SHOWN_CHARS: Final = 500
_PART_CHARS: Final = 8  # so much of a secret is told by nobody: providers like to show the beginning of a wrong key
_ASCII_LOWER: Final = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_TYPES: Final = frozenset(
    {
        "application/json", "application/octet-stream", "application/x-ndjson", "application/xml", "multipart/form-data",
        "text/css", "text/event-stream", "text/html", "text/javascript", "text/plain", "text/xml",
    }
)  # fmt: skip
_SCHEME: Final = re.compile(r"\b(?:bearer|basic|api-key)\s+\S+", re.IGNORECASE)
_LONG_RUN: Final = re.compile(r"[A-Za-z0-9+/=_.%~*-]{20,}")
_PAGE: Final = re.compile(r"<\s*(?:!doctype|html|head|body|center|h1|script|title)\b", re.IGNORECASE)


def safe_text(text: str, secrets: Iterable[str]) -> str:
    """`text` on one line, without `secrets`, parts of them and whatever looks like a credential, at most 500 characters.

    '' for a page. Keys are base64, UUIDs and JWTs, so a long run of such characters that is no word is blotted out.
    """
    if _PAGE.search(text[:_MAX_READ_CHARS]):
        return ""
    text = html.unescape(text[:_MAX_READ_CHARS])
    text = _without(text, secrets)
    text = _SCHEME.sub("***", text)
    text = _LONG_RUN.sub(lambda run: "***" if _is_random(run[0]) else run[0], text)
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 1] + "…"


def safe_type(content_type: bytes | None) -> str:
    """A Content-Type for the operator's log: the common ones by name, since another may say anything."""
    kind = (content_type or b"").partition(b";")[0].strip().lower().decode("latin-1")
    return kind if kind in _TYPES else "another one" if kind else "none"


def _without(text: str, secrets: Iterable[str]) -> str:
    """Every stretch of `text` that is a secret, or as much as `_PART_CHARS` of one, becomes `***`, whatever its case."""
    lowered = text.translate(_ASCII_LOWER)  # of the same length, unlike str.lower()
    hidden = bytearray(len(text))
    for secret in secrets:
        size = min(len(secret), _PART_CHARS)
        if size < 4:
            continue  # such a short one cannot be told from a word
        small = secret.translate(_ASCII_LOWER)
        parts = {small[at : at + size] for at in range(len(small) - size + 1)}
        for at in range(len(text) - size + 1):
            if lowered[at : at + size] in parts:
                hidden[at : at + size] = b"\1" * size
    pieces = ("***" if mark else "".join(letter for _, letter in stretch)
              for mark, stretch in groupby(zip(hidden, text, strict=True), key=lambda pair: pair[0]))  # fmt: skip
    return "".join(pieces)


def _is_random(run: str) -> bool:
    """Whether a long run looks like no word: it has digits, or letters of both cases."""
    return any(letter.isdigit() for letter in run) or (run != run.lower() and run != run.upper())
