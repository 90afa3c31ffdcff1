"""A provider's words made fit to show: an error text may echo the gateway's own key, or be a whole page (incident I-28)."""

import re
from collections.abc import Iterable
from typing import Final

_MAX_READ_CHARS: Final = 2000
_MAX_SHOWN_CHARS: Final = 500
_SCHEME: Final = re.compile(r"\b(?:bearer|basic|api-key)\s+\S+", re.IGNORECASE)
_LONG_RUN: Final = re.compile(r"[A-Za-z0-9+/=_.%~*-]{20,}")
_PAGE: Final = re.compile(r"<\s*(?:!doctype|html|head|body|center|h1|script|title)\b", re.IGNORECASE)


def safe_text(text: str, secrets: Iterable[str]) -> str:
    """`text` on one line, without `secrets` and whatever looks like a credential, at most 500 characters.

    '' for a page. Keys are base64, UUIDs and JWTs, so a long run of such characters that is no word is blotted out.
    """
    if _PAGE.search(text[:_MAX_READ_CHARS]):
        return ""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, "***")
    text = _SCHEME.sub("***", text[:_MAX_READ_CHARS])
    text = _LONG_RUN.sub(lambda run: "***" if _is_random(run[0]) else run[0], text)
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 1] + "…"


def _is_random(run: str) -> bool:
    """Whether a long run looks like no word: it has digits, or letters of both cases."""
    return any(letter.isdigit() for letter in run) or (run != run.lower() and run != run.upper())
