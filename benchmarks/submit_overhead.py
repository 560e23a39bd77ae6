"""What Orchestrate adds to a run: `orchestrate submit` against a hand-written shell loop, in turn, in one go.

Both start the same embedded engine with the same settings for each of 12 cells, send it the same warm-up and the same
measured request, and end it. The loop does it with mkfifo and curl; submit runs on a Ray cluster that is already up.

    python benchmarks/submit_overhead.py [--pairs 3] [--generate 48]

Prints the wall time of each run, and the ratio of each pair: the aim is at most 1.05.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from agents.engines.llama.params import engine_params
from agents.engines.llama.requests import llama_request
from agents.models.resolve import resolve
from orchestrator.matrix import Cell, expand, read_matrix

MATRIX = """\
name: overhead
defaults: {{engine: embedded, runtime: cpu, model: "tiny:llama-0.6b", quantisation: Q4_0, workload: pp{prompt}+tg{gen}}}
axes: {{context: [1K, 2K, 4K], kv_type: [f16, q8_0], threads: [1], batch: [512, 1024]}}
measure: {{repeats: 1, warmups: 1}}
"""

ONE_CELL = """\
mkfifo in; : > out
GOMP_SPINCOUNT=10000 {python} -m agents.engines.llama.embedded_child < in > out 2> log &
exec 3> in; cat params >&3
until grep -q address out; do sleep 0.02; done
address=$(sed 's/.*"\\(http[^"]*\\)".*/\\1/' out)
for body in warm-up measured; do
  curl -sN -H 'Content-Type: application/json' --data-binary @$body "$address/completion" > $body.answer
done
exec 3>&-; wait
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=3)
    options.add_argument("--prompt", type=int, default=32)
    options.add_argument("--generate", type=int, default=32)
    asked = options.parse_args()
    if shutil.which("curl") is None:
        sys.exit("curl is not on this machine")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="submit-overhead-")))
        matrix = folder / "overhead.yaml"
        matrix.write_text(MATRIX.format(prompt=asked.prompt, gen=asked.generate))
        home = folder / "home"
        cells = list(expand(read_matrix(matrix)))
        loop = write_loop(cells, folder, home / "device" / "models")
        environment = {**os.environ, "ORCHESTRATE_HOME": str(home), "RAY_ADDRESS": start_cluster(stack, folder, home)}
        submit = [sys.executable, "-m", "orchestrator", "submit", str(matrix)]
        timed(submit, environment)  # warm-up: files in the page cache, bytecode
        timed(["bash", str(loop)], environment)
        ratios = []
        print(f"{len(cells)} cells, one warm-up and one measured request each")
        print(f"{'shell loop, s':>14} {'submit, s':>10} {'ratio':>7}")
        for _ in range(asked.pairs):
            by_hand = timed(["bash", str(loop)], environment)
            ours = timed(submit, environment)
            ratios.append(ours / by_hand)
            print(f"{by_hand:14.2f} {ours:10.2f} {ours / by_hand:7.3f}", flush=True)
        print(f"median ratio {statistics.median(ratios):.3f}")


def write_loop(cells: list[Cell], folder: Path, models: Path) -> Path:
    """The shell loop, with a folder for each cell that holds the engine's settings and the two requests."""
    lines = ["set -eu"]
    for number, cell in enumerate(cells):
        place = folder / f"cell{number}"
        place.mkdir()
        files = resolve(cell.load, models, lambda _: None)
        vocabulary = files.facts.n_vocab if files.facts and files.facts.n_vocab else 0
        (place / "params").write_text(json.dumps(engine_params(cell.load, files)) + "\n")
        for name, nonce in (("warm-up", 1), ("measured", 0)):
            (place / name).write_bytes(llama_request("http://engine", cell.workload, vocabulary, nonce).body)
        lines.append(f"cd {shlex.quote(str(place))}; rm -f in out; {ONE_CELL.format(python=sys.executable)}")
    script = folder / "loop.sh"
    script.write_text("\n".join(lines))
    return script


def start_cluster(stack: ExitStack, folder: Path, home: Path) -> str:
    """A Ray head of its own; ended by its process id. Returns its address."""
    environment = {**os.environ, "ORCHESTRATE_HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0"}  # as submit does
    temp = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--port=6391", "--num-cpus=1"]
    command += [f"--temp-dir={temp}", "--include-dashboard=false", "--include-log-monitor=false"]
    with (folder / "ray.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def end() -> None:
        head.terminate()
        head.wait(timeout=60)

    stack.callback(end)
    deadline = time.monotonic() + 60
    while b"Ray runtime started" not in (folder / "ray.log").read_bytes():
        if head.poll() is not None or time.monotonic() > deadline:
            sys.exit((folder / "ray.log").read_text())
        time.sleep(0.1)
    return "127.0.0.1:6391"


def timed(command: list[str], environment: Mapping[str, str]) -> float:
    """Wall seconds of one run; ends the program if it fails."""
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return seconds


if __name__ == "__main__":
    main()
