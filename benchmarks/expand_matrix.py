"""How long a matrix of 1,000,000 cells takes, and how much memory: the limit is 5 s and 1 GiB.

``python benchmarks/expand_matrix.py [CELLS]`` writes a matrix that leaves at least CELLS cells (1,000,000), with a zip
group, an exclude and an include, reads it, counts its cells and expands it, and prints the time of each step with the
process's peak memory. Exit code 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.matrix import Matrix, count_cells, expand, read_matrix

LIMIT_S = 5.0
LIMIT_BYTES = 1024**3
ON_MACOS = sys.platform == "darwin"  # ru_maxrss is in bytes there, in KiB elsewhere


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="?", type=int, default=1_000_000)
    asked: int = parser.parse_args().cells
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.yaml"
        path.write_text(matrix_text(asked), encoding="utf-8")
        begun = time.perf_counter()
        matrix = read_matrix(path)
        read_s = time.perf_counter() - begun
    seconds = measure(matrix)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if ON_MACOS else 1024)
    total_s = read_s + seconds
    print(f"read {read_s:.2f} s, all {total_s:.2f} s (limit {LIMIT_S:g} s)")
    print(f"peak memory {peak_bytes / 1024**2:.0f} MiB (limit {LIMIT_BYTES / 1024**2:.0f} MiB)")
    return 0 if total_s < LIMIT_S and peak_bytes < LIMIT_BYTES else 1


def matrix_text(cells: int) -> str:
    """10 models x 10 contexts x 20 thread counts x 5 zipped x batches; a twentieth is excluded, two are included."""
    batches = max(1, math.ceil(cells / 0.94 / (10 * 10 * 20 * 5)))
    models = ", ".join(f"model-{number}" for number in range(10))
    return f"""
defaults: {{engine: lmstudio, workload: pp512}}
axes:
  model: [{models}]
  context: {{from: 1K, to: 10K, step: 1K}}
  threads: {{from: 1, to: 20, step: 1}}
  batch: {{from: 1, to: {batches}, step: 1}}
zip:
  - quantisation: [Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0]
    kv_type: [f16, q8_0, q8_0, q4_0, q4_0]
exclude:
  - {{model: model-9, threads: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}}
  - {{context: 10K, quantisation: Q8_0, batch: 1}}
include:
  - {{model: another, threads: [1, 2], workload: tg128}}
"""


def measure(matrix: Matrix) -> float:
    """Seconds to count and to expand; prints them with the time of the ids."""
    begun = time.perf_counter()
    counts = count_cells(matrix)
    counted = time.perf_counter()
    cells = expand(matrix)
    ended = time.perf_counter()
    some = cells[:100_000]
    ids = {cell.cell_id for cell in some}
    ids_s = time.perf_counter() - ended
    assert len(cells) == counts.cells and len(ids) == len(some)
    print(f"{counts.cells:,} cells, {counts.excluded:,} excluded, {counts.duplicates:,} duplicates")
    print(f"count {1000 * (counted - begun):.1f} ms, expand {ended - counted:.2f} s")
    print(f"beside that: {len(some):,} cell ids {ids_s:.2f} s ({1e6 * ids_s / len(some):.1f} us each)")
    return ended - begun


if __name__ == "__main__":
    raise SystemExit(main())
