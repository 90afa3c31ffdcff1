"""The model on its larger configurations: python tests/model/long_run.py [NAME …]. docs/ledger-model.md records a run."""

import gc
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from model.configurations import BOUNDED, LARGE
from model.explorer import explore
from model.gateway import Protocol

_MOST_STATES = 8_000_000


def main(names: list[str]) -> None:
    gc.disable()  # states are tuples without cycles, and there are millions
    every = BOUNDED | LARGE
    for name in names or every:
        generations, faults, balance = every[name]
        began = time.monotonic()
        found = explore(Protocol(generations, faults, balance=balance), _MOST_STATES)
        memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{name}: {found}; {time.monotonic() - began:.0f} s, {memory_mb} MB", flush=True)
        if found.problem is not None:
            raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
