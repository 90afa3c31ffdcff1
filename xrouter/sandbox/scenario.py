"""Faults and special answers on demand, written the same way wherever they are asked for.

A scenario is a list of `name` or `name=value`, separated by commas: `cut=3`, `429,retry-after=1,times=2`. It is chosen, in
this order, by the header `X-Emu-Scenario`, by a mark in the newest message (`[[emu:cut=3]]`, which passes any gateway), by
`POST /admin/scenario` for the next requests, and by `--scenario` for all the others.
"""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(ge=0, le=3600)]
Count = Annotated[int, Meta(ge=0, le=10_000_000)]

HEADER = "x-emu-scenario"
MARK = re.compile(r"\[\[emu:([^\]\\\"]*)\]\]")

_UNKNOWN = re.compile(r"unknown field `(.*)`")
_SEPARATORS = re.compile(r"[,;\s]+")

_ALIASES = {"blacklist": "filter", "replace": "filter=2", "html403": "403,html", "html502": "502,html"}

_BARE: dict[str, str] = {  # what a name without `=value` means, where that is not simply "yes"
    "cut": "3",
    "reset": "0",
    "drip": "0.2",
    "latency": "1",
    "filter": "0",
    "long": "2000",
    "tool": "1",
    "split": "byte",
    "stream_error": "2",
    "content_type": "text/html",
}


class Scenario(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one request's answer is to be like. Each field is a name of the grammar, with `-` for `_`.

    Frames are the pieces of a stream: server-sent events, or Yandex's lines. An answer that is not streamed is one frame.
    """

    status: Annotated[int, Meta(ge=400, le=599)] | None = (
        None  # written as the bare number: an error instead of an answer
    )
    retry_after: Seconds | None = None  # with a status: the Retry-After header
    html: bool = False  # with a status: a page instead of the provider's JSON
    times: Annotated[int, Meta(ge=1)] | None = None  # the first so many requests only; then one passes, then again

    latency: Seconds = 0.0  # before the head
    drip: Seconds = 0.0  # between frames
    cut: Count | None = None  # the connection is closed after so many frames
    cut_bytes: Count | None = None  # … after so many bytes of the body
    reset: Count | None = None  # a TCP reset after so many frames; 0: before the head
    content_type: str | None = None  # instead of the right one
    empty: bool = False  # 200 with an empty body
    gzip: bool = False  # a body that says gzip and is not
    error_200: bool = False  # an error object with the status 200
    stream_error: Count | None = None  # an error object after so many frames of a stream

    split: Literal["byte", "utf8", "field"] | None = None  # each byte, inside characters, inside `data:`
    crlf: bool = False
    no_newline: bool = False  # the last frame lacks its line end
    no_defaults: bool = False  # fields with default values are left out, as proto3's JSON may
    no_usage: bool = False
    no_finish: bool = False  # a stream that just ends
    rewrite: bool = False  # Yandex's cumulative text takes back what it said
    repeat: bool = False  # each of Yandex's lines comes twice
    upper: bool = False  # finish reasons in upper case
    empty_choices: bool = False  # Yandex compatible: usage in a chunk of its own
    sse: bool = False  # Yandex native: `data:` before each line

    filter: Count | None = None  # refused by moderation, in a stream after so many frames
    error: bool = False  # GigaChat: the model spoilt its function call
    length: bool = False  # as if max_tokens had cut the answer in the middle
    tool: Annotated[int, Meta(ge=1, le=8)] | None = None  # so many tool calls, whatever the question
    long: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None  # an answer of about so many tokens
    reasoning: bool = False  # reasoning_content beside the content
    think: bool = False  # reasoning inside the content, as <think>…</think>


NO_SCENARIO = Scenario()
"""An answer as it should be."""


class ScenarioError(ValueError):
    """A scenario that cannot be read; the message names what is wrong."""


def parse(text: str) -> Scenario:
    """The scenario that `text` spells. Raises ScenarioError."""
    fields: dict[str, Any] = {}
    for word in _words(text):
        name, equals, value = word.partition("=")
        name = name.strip().lower().replace("-", "_")
        if name.isascii() and name.isdigit():
            fields["status"] = name
        else:
            fields[name] = value if equals else _BARE.get(name, "true")
    try:
        return msgspec.convert(fields, Scenario, strict=False)
    except msgspec.ValidationError as problem:
        known = ", ".join(name.replace("_", "-") for name in Scenario.__struct_fields__ if name != "status")
        found = _UNKNOWN.search(str(problem))
        what = f"unknown name {found[1]!r}" if found else str(problem)
        raise ScenarioError(f"{text!r} is not a scenario: {what}; known: a status such as 429, {known}") from None


def _words(text: str) -> list[str]:
    words = [word for word in _SEPARATORS.split(text) if word]
    return [part for word in words for part in _ALIASES.get(word.lower(), word).split(",")]
