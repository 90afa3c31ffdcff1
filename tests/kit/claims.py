"""One request under an Idempotency-Key as the filter makes it, without the HTTP around it: claim, hold, settle, keep."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from kit.money import ACCOUNT, KEY, settlement
from msgspec.structs import replace

from xrouter.errors import Conflict
from xrouter.ledger.idempotent import IdempotentRequests, KeptAnswer
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.operations import Settlement
from xrouter.secret import Secret

COST = 1_000
Kind = Literal["charged", "failed", "replayed", "done", "busy"]
CREDENTIAL = Secret("xr-default-test")


@dataclass(frozen=True, slots=True)
class Ended:
    """`generation_id`: whose the charge is, as far as this request was told."""

    kind: Kind
    generation_id: str | None = None


def void(generation_id: str) -> Settlement:
    """The end for nothing of a request whose process is gone."""
    return replace(settlement(generation_id, None), outcome="shutdown", rule="abandoned")


async def request(
    requests: IdempotentRequests,
    ledger: Ledger,
    generation_id: str,
    name: str,
    *,
    owner: str = KEY,
    fails: bool = False,
    keeps: bool = True,
    upstream_s: float = 0.0,
) -> Ended:
    """`fails`: the upstream does, and nothing is charged. `keeps`: a whole answer; otherwise a stream, which is not kept."""
    claim = requests.claim(owner, name, b"body", generation_id)
    try:
        sealed = await requests.take(claim, void)
    except Conflict as conflict:
        done = conflict.metadata.get("generation_id")
        return Ended("busy" if done is None else "done", done)
    if sealed is not None:
        return Ended("replayed")
    charged = False
    try:
        await ledger.hold(generation_id, ACCOUNT, KEY, wanted_nano=2 * COST, least_nano=2 * COST)
        await asyncio.sleep(upstream_s)
        if fails:
            failed = replace(settlement(generation_id, None), outcome="upstream_error", rule="nothing_generated")
            await ledger.settle(failed, delivered=False)
        else:
            charged = True  # from here on it will be, even if its caller does not hear of it
            await ledger.settle(settlement(generation_id, COST), delivered=False)
            if keeps:
                await requests.keep(claim, KeptAnswer(generation_id, [], b"answer"), CREDENTIAL, name)
    finally:
        if not charged:
            await ledger.release(generation_id)
            await requests.give_up(claim)
    return Ended("charged" if charged else "failed", generation_id)
