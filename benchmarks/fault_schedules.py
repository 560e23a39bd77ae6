"""Random schedules of faults against the real ledger, store, schedule and loop: is every job there exactly once?

Devices, links, agents and the clock are simulated (``tests/fakes/simulated_fleet.py``); coordinators crash before, in
the middle of and after each write and each call. Seeded: the same numbers tell the same story again.

    python benchmarks/fault_schedules.py [--schedules 100] [--first 0]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fakes.fault_schedules import Schedule


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    options = parser.parse_args()
    faults, statuses = Counter[str](), Counter[str]()
    jobs = lost = doubled = bad = 0
    began = time.perf_counter()
    for seed in range(options.first, options.first + options.schedules):
        with tempfile.TemporaryDirectory() as folder:
            outcome = Schedule(seed, Path(folder)).run()
        faults.update(outcome.faults)
        statuses.update(outcome.statuses)
        jobs, lost, doubled = jobs + outcome.jobs, lost + outcome.lost, doubled + outcome.doubled
        if not outcome.good:
            bad += 1
            print(f"seed {seed}: {outcome.lost} lost, {outcome.doubled} doubled; {'; '.join(outcome.wrong)}")
    seconds = time.perf_counter() - began
    print(
        f"{options.schedules} schedules, {jobs:,} jobs, {sum(faults.values()):,} faults: {lost} lost, {doubled} doubled"
    )
    print(f"rows: {', '.join(f'{count:,} {name}' for name, count in statuses.most_common())}")
    print(f"faults: {', '.join(f'{count:,} {name}' for name, count in faults.most_common())}")
    print(f"{seconds:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
