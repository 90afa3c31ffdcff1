"""The ledger against its model for as long as it takes: python tests/ledger/long_walk.py [OPERATIONS] [SEED]

Walks of 20 000 operations each, every one on a fresh database, proven at its end. A failure names the seed that replays it.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from kit.ledger_walk import Walk, random_walk

from xrouter.ledger.proof import prove
from xrouter.store.migrate import open_store

_OPERATIONS_IN_WALK = 20_000


async def walk_once(folder: Path, seed: int) -> int:
    path = folder / f"walk-{seed}.db"
    engine = await open_store(f"sqlite:///{path}")
    walk = Walk(path)
    try:
        random_walk(walk, seed, _OPERATIONS_IN_WALK, compare_each=5_000)
    except AssertionError as error:
        raise SystemExit(f"seed {seed} fails: {error}") from error
    finally:
        walk.close()
    proof = await prove(engine)
    await engine.dispose()
    if not proof.ok:
        raise SystemExit(f"seed {seed} fails the proof: {proof.problems[:3]}")
    path.unlink()
    return walk.operations


def main(operations: int, seed: int) -> None:
    done, began, next_word = 0, time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        while done < operations:
            done += asyncio.run(walk_once(Path(folder), seed))
            seed += 1
            if time.monotonic() - began >= next_word:
                next_word += 10
                print(f"{done} operations, {done / (time.monotonic() - began):.0f}/s", flush=True)
    print(f"{done} operations, 0 differences, last seed {seed - 1}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["1000000"])[0]), int((sys.argv[2:] or ["1"])[0]))
