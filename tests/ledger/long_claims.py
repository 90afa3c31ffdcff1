"""The walk of test_claims_walk.py at any length: python tests/ledger/long_claims.py REQUESTS [SEED]. Ends with what was met.

A folder in memory (TMPDIR=/dev/shm) makes it several times faster: the disk is not what is tried here.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from kit.claims_walk import walk

_IN_ONE = 2_000


def main(requests: int, seed: int) -> None:
    ends: Counter[str] = Counter()
    began, done = time.monotonic(), 0
    while done < requests:
        folder = Path(tempfile.mkdtemp())
        ends += asyncio.run(walk(folder, seed, _IN_ONE))
        shutil.rmtree(folder)
        done, seed = done + _IN_ONE, seed + 1
        print(f"{done} requests, {time.monotonic() - began:.0f} s, next seed {seed}: {dict(ends)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
