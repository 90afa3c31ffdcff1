"""F29: any interleaving of requests under an Idempotency-Key, without HTTP, so that there can be very many."""

from collections import Counter
from pathlib import Path

from kit.claims_walk import walk


async def test_f29_in_any_order_and_from_any_process_a_name_is_charged_once(tmp_path: Path) -> None:
    """Fails if a claim is passed on from a process that is taken for dead without settling what it ran."""
    ends: Counter[str] = Counter()
    for seed in range(2):
        ends += await walk(tmp_path, seed, 120)
    assert {"charged", "failed", "replayed", "done", "busy", "cancelled", "taken for dead"} <= set(ends), ends
