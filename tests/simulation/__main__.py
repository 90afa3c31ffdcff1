"""Run the simulation: PYTHONPATH=tests .venv/bin/python -m simulation --seed 17, or --operations 20000000 from --seed on."""

import argparse
import sys
import time

from simulation.sim_run import Result, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the seed to begin with")
    parser.add_argument("--requests", type=int, default=300, help="of each run")
    parser.add_argument("--operations", type=int, default=0, help="seed after seed until so many are done; 0: one seed")
    chosen = parser.parse_args()
    done, seed, began, told = 0, chosen.seed, time.monotonic(), 0.0
    while True:
        result = simulate(seed, chosen.requests)
        done += result.operations
        if result.problem is not None:
            print(f"seed {seed}, digest {result.digest}: {result.problem}\nreplay: {replay(result, chosen.requests)}")
            return 1
        if done >= chosen.operations or time.monotonic() - told > 30:
            told = time.monotonic()
            print(f"seeds {chosen.seed} to {seed}: {done} operations in {told - began:.0f} s, 0 failures", flush=True)
        if done >= chosen.operations:
            if not chosen.operations:
                print(f"digest {result.digest}, {result.requests} requests: {result.counts}")
            return 0
        seed += 1


def replay(result: Result, requests: int) -> str:
    return f"PYTHONPATH=tests .venv/bin/python -m simulation --seed {result.seed} --requests {requests}"


if __name__ == "__main__":
    sys.exit(main())
