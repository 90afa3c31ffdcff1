"""A short name for what a configuration says, so that a receipt can tell which one its request ran under."""

from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

from xrouter.config.settings import Settings
from xrouter.config.show import plain, summarise

_DIGITS: Final = 12


class InForce(Struct, frozen=True):
    """`version` names what the configuration says; `since_s` is when this process began to serve by it, Unix time."""

    version: str
    since_s: int


def version(settings: Settings) -> str:
    """The same for two files that mean the same. Secrets count as set or not set, whatever they are."""
    summary = summarise(settings)
    chain = [(step.name, step.config) for step in summary.chain]  # not where in the file it is said
    models, ledger = plain(settings.models), plain(settings.ledger)
    said = (chain, summary.upstreams, models, summary.tiers, ledger, summary.store, summary.redis, summary.workers)
    return sha256(msgspec.json.encode(said)).hexdigest()[:_DIGITS]
