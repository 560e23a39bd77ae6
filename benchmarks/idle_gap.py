"""How long a device idles between two jobs: from the end of one on the device to the start of the next.

Runs jobs of one loaded engine (no start, no load, no cool-down between them) on a one-node cluster of its own and reads
the gaps off the rows' own times, which one clock took. The limit is 50 ms.

    python benchmarks/idle_gap.py [--jobs 60]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

MATRIX = """
name: gap
defaults: {{engine: embedded, runtime: cpu, threads: 1, model: tiny:llama, quantisation: Q8_0, context: 1K}}
axes: {{workload: pp8+tg64}}
measure: {{repeats: {jobs}, warmups: 0}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gap.yaml"
        path.write_text(MATRIX.format(jobs=options.jobs))
        environment = os.environ | {"ORCHESTRATE_HOME": folder}
        command = [sys.executable, "-m", "orchestrator", "submit", str(path), "--address", "local"]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        import orchestrator

        (run,) = (Path(folder) / "runs").iterdir()
        rows = orchestrator.load(run).select(["job_id", "started_at", "ended_at"]).to_pylist()
    times = sorted((row["started_at"], row["ended_at"]) for row in rows)
    gaps_ms = sorted((after[0] - before[1]).total_seconds() * 1e3 for before, after in pairwise(times))
    middle, late = gaps_ms[len(gaps_ms) // 2], gaps_ms[int(len(gaps_ms) * 0.95)]
    print(f"{len(times)} jobs; idle between two: {middle:.1f} ms (median), {late:.1f} (95 %), {gaps_ms[-1]:.1f} (most)")
    return 0 if late <= 50.0 else 1


if __name__ == "__main__":
    sys.exit(main())
