"""What must be true at the end of a run: each charge is what the upstream's own record and the price at admission make it.

Independent of the gateway's arithmetic: prices are computed by `sim_settings`, usage is the upstream's, and what the client
has is what it received. Only the counter of tokens (xrouter/tokens.py) and the proof (xrouter/ledger/proof.py) are shared.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from simulation.sim_client import CORRECTED, RICH, Request
from simulation.sim_settings import FREE, PAID
from simulation.sim_upstream import Call, Reported

from xrouter.ledger.proof import prove
from xrouter.ledger.receipts import read_details
from xrouter.store.engine import create_engine
from xrouter.tokens import UNKNOWN
from xrouter.wire import decode_json

if TYPE_CHECKING:
    from simulation.sim_run import Run

_TEMPLATE_TOKENS: Final = 8  # of a chat's one message (xrouter/tokens.py)
_SETTLES_S: Final = 5.0  # what a client that left has had is settled behind its back in that time, or is put off
Row = dict[str, Any]


def verdict(run: "Run") -> str | None:
    """The first problem, or None."""
    return next(_problems(run), None)


def _problems(run: "Run") -> Iterator[str]:
    with closing(sqlite3.connect(run.path)) as connection:
        connection.row_factory = sqlite3.Row
        receipts = [dict(row) for row in connection.execute("SELECT * FROM generations")]
        held = {row[0]: row[1] for row in connection.execute("SELECT generation_id, state FROM holds")}
        entries = [dict(row) for row in connection.execute("SELECT * FROM entries")]
        balances = {row[0]: row[1] for row in connection.execute("SELECT name, balance_nano FROM accounts")}
    taken_back = {entry["generation_id"] for entry in entries if entry["author"] == "the gateway"}
    by_request: dict[str, list[Row]] = {}
    for receipt in receipts:
        receipt["taken_back"] = receipt["id"] in taken_back
        by_request.setdefault(read_details(receipt["details"]).request_id, []).append(receipt)
    yield from (f"generation {one} is still held" for one, state in held.items() if state == "open")
    yield from (f"the journal {path.name} is left" for path in run.store.journals.iterdir())
    for request in run.requests:
        mine = by_request.pop(request.plan.name, [])
        for problem in _of_request(request, mine, run.upstreams.calls.get(request.plan.name, []), held):
            yield f"{request.plan.name} ({request.plan}): {problem}"
    yield from (f"nobody has asked for {name}, which is charged" for name in by_request)
    yield from _of_transfers(run, entries)
    yield from _of_balances(entries, receipts, balances)
    yield from asyncio.run(_proof(run))


async def _proof(run: "Run") -> tuple[str, ...]:
    """The product's own: I1 to I8 from the rows."""
    engine = create_engine(f"sqlite:///{run.path}")
    try:
        return (await prove(engine)).problems
    finally:
        await engine.dispose()


def _of_request(request: Request, mine: list[Row], calls: list[Call], held: dict[str, str]) -> Iterator[str]:
    if len(mine) > 1:
        yield f"it is charged {len(mine)} times: {[row['id'] for row in mine]}"
        return
    priced = request.plan.model != FREE
    if calls and priced and request.variant.on_store_failure == "deny" and request.generation not in held:
        yield "it reached an upstream without a hold"  # F13
    if not mine:
        if request.finished:
            yield "its client has the whole answer, and nothing is charged"
        elif request.status == 200 and not _lost(request):
            yield "its client has a part of the answer, and there is no receipt"
        return
    (row,) = mine
    if (row["account"], row["key_hash"], row["model"]) != (request.plan.account, request.plan.key, request.plan.model):
        yield f"another's: {row}"
    if request.finished and row["rule"] != "complete":
        yield f"its client has the whole answer, the receipt says {row['rule']}"
    # A head that a slow client had not taken when the process was stopped: the front writes one without waiting.
    too_slow = request.process.stopping and request.status == 503 and request.plan.slow_s
    if request.status == 200 and row["taken_back"]:
        yield "it was answered, and its charge was taken back"
    # What the store had done without an answer, and a process that could write nowhere until it was killed would take back.
    excused = too_slow or row["taken_back"] or request.generation in request.process.forgotten
    if request.status not in (None, 200) and row["charged_nano"] and not excused:
        yield f"it was refused with {request.status} and charged {row['charged_nano']}"
    yield from _of_rule(request, row, calls)
    yield from _of_price(request, row)
    yield from _of_hold(request, row)
    if request.finished:
        yield from _of_cost_told(request, row)


def _lost(request: Request) -> bool:
    """Its process has died before it could settle, or could write nowhere to the end."""
    process = request.process
    return (
        request.lost
        or request.generation in process.forgotten
        or (process.was_killed and process.ran_s(request.ended_at) < _SETTLES_S)
    )


def _of_rule(request: Request, row: Row, calls: list[Call]) -> Iterator[str]:
    """The receipt's rule (docs/money.md) fits what has happened, and its usage is the rule's."""
    rule: str = row["rule"]
    call = calls[-1] if calls else None
    text = request.text()
    if row["input_tokens"] is None:
        if rule.startswith("client_abort") and rule != "client_abort:cancel":
            yield f"{rule} charges nothing"
        if rule == "client_abort:cancel" and call is not None and call.reported() and call.handed:
            yield "the upstream had reported its usage, and nothing is charged"
        if text and rule != "client_abort:cancel":
            yield f"its client has {len(text)} characters under the rule {rule}"
        if rule == "complete":
            yield "complete, and no usage"
        return
    if rule.startswith("nothing"):
        yield f"{rule} has usage"
    if call is None or call.upstream != row["upstream"]:
        yield f"it is charged for a call at {row['upstream']} that never came: {calls}"
        return
    if rule == "complete" and not call.finished():
        yield f"complete, but the upstream had not finished: {call}"
    if rule.startswith("client_abort") and (not request.left or rule != f"client_abort:{request.variant.policy}"):
        yield f"{rule}, left: {request.left}, policy {request.variant.policy}"
    if rule.split(":")[0] in ("upstream_error", "shutdown", "credits_exhausted") and request.finished:
        yield f"{rule}, but its client has the whole answer"
    yield from _of_usage(request, row, call, text)


def _of_usage(request: Request, row: Row, call: Call, text: str) -> Iterator[str]:
    reported = call.reported()
    usage = (row["input_tokens"], row["cached_tokens"] or 0, row["output_tokens"], row["reasoning_tokens"] or 0)
    if row["usage_source"] == "reported":
        if reported is None or usage != _tokens(reported):
            yield f"reported usage {usage}, but the upstream reported {reported}"
        return
    if reported is not None:
        yield f"counted usage {usage}, though the upstream reported {reported}"
    prompt = UNKNOWN.count(request.plan.content) + _TEMPLATE_TOKENS
    if usage[0] != prompt or not UNKNOWN.count(text) <= usage[2] <= UNKNOWN.count(call.generated()):
        yield (
            f"counted usage {usage}; the prompt has {prompt}, the client {UNKNOWN.count(text)}, generated were"
            f" {UNKNOWN.count(call.generated())}"
        )


def _of_price(request: Request, row: Row) -> Iterator[str]:
    """The price fixed at admission, whatever was reloaded and whichever day it became since."""
    day = datetime.fromtimestamp(row["created_at_us"] / 1e6, UTC).date().isoformat()
    expected = 0
    if row["input_tokens"] is not None:
        tokens = (row["input_tokens"], row["cached_tokens"] or 0, row["output_tokens"], row["reasoning_tokens"] or 0)
        expected = request.variant.nano(row["model"], row["upstream"], day, tokens)
    if row["cost_nano"] != expected:
        yield f"costs {row['cost_nano']}, by hand {expected}"
    if row["charged_nano"] > expected or (row["charged_nano"] < expected and row["account"] == RICH):
        yield f"charged {row['charged_nano']} of {expected}"


def _of_hold(request: Request, row: Row) -> Iterator[str]:
    """Without `max_tokens` no more is sent than the hold covers (architecture, promise 5). Local counts are of pieces: a
    third is allowed for their rounding."""
    if request.plan.max_tokens is not None or not row["hold_nano"] or not request.undisturbed or row["model"] == FREE:
        return
    day = datetime.fromtimestamp(row["created_at_us"] / 1e6, UTC).date().isoformat()
    prompt = UNKNOWN.count(request.plan.content) + _TEMPLATE_TOKENS
    delivered = UNKNOWN.count(request.text()) * 2 // 3 - 5 if request.plan.stream else 0
    upstreams = ("one", "two") if request.plan.model == PAID else ("two",)
    least = min(request.variant.nano(row["model"], one, day, (prompt, 0, max(0, delivered), 0)) for one in upstreams)
    if least > row["hold_nano"]:
        yield f"its client has an answer worth {least}, only {row['hold_nano']} were held"


def _of_cost_told(request: Request, row: Row) -> Iterator[str]:
    """What the client was told is what it was charged for."""
    if request.plan.stream:
        told = [event["usage"]["cost"] for event in request.events() if event.get("usage")]
    else:
        told = [decode_json(b"".join(request.pieces))["usage"]["cost"]]
    if [round(cost * 10**9) for cost in told] != [row["cost_nano"]]:
        yield f"its client was told that it costs {told}, the receipt says {row['cost_nano']}"


def _of_transfers(run: "Run", entries: list[Row]) -> Iterator[str]:
    """Each is done once if it was acknowledged, at most once if not, never if it was refused."""
    done: dict[str, list[Row]] = {}
    for entry in entries:
        if entry["kind"] in ("grant", "adjustment", "refund"):
            done.setdefault(entry["idempotency_key"] or entry["reason"], []).append(entry)
    for sent in run.sent:
        transfer = sent.transfer
        found = done.get(transfer.idempotency_key or transfer.reason, [])
        own = [entry for entry in found if entry["reason"] == transfer.reason]
        if len(found) > 1:
            yield f"{transfer} is posted {len(found)} times"
        if sent.acknowledged and not found:
            yield f"{transfer} was acknowledged, and is not there"
        if own and sent.refused and not sent.acknowledged:
            yield f"{transfer} was refused, and is there"
        if own and own[0]["amount_nano"] != abs(transfer.amount_nano):
            yield f"{transfer} is posted as {own[0]}"


def _of_balances(entries: list[Row], receipts: list[Row], balances: dict[str, int]) -> Iterator[str]:
    """An account has what people have decided, less what it was charged, and nothing else."""
    expected = dict.fromkeys((name for name in balances if not name.startswith("@")), 0)
    for entry in entries:
        if entry["kind"] in ("grant", "adjustment", "refund"):
            for account, sign in ((entry["credit_account"], 1), (entry["debit_account"], -1)):
                if account in expected:
                    expected[account] += sign * entry["amount_nano"]
    for receipt in receipts:
        expected[receipt["account"]] -= receipt["charged_nano"]
    for account, nano in expected.items():
        if balances[account] != nano:
            yield f"{account} has {balances[account]}, by hand {nano}"
        if nano < 0 and account != CORRECTED:
            yield f"{account} is below its floor: {nano}"


def _tokens(reported: Reported) -> tuple[int, int, int, int]:
    return (reported.prompt, reported.cached, reported.answer, reported.reasoning)
