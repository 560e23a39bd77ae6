"""What ``llama-server`` through this project's client gives, beside ``llama-bench`` of the same build, in turns.

Run from the repository's root, on an idle machine, after ``python tests/slow/build_llama.py``:
``python benchmarks/against_llama_bench.py`` (about 3 minutes). Same model file, threads, batch, flash attention, spin
count, and the same depth: a decode rate at another depth is another figure. Both load anew in each round: where a
process's memory comes to lie was seen to make 10 % between two servers with equal settings. Prints a Markdown table,
and how much later the client has a first token than the engine says that its prompt was done.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agents.clock import SystemClock  # noqa: E402
from agents.contract.job import Job, LoadSettings, ModelSource, Runtime, Synthetic, Timeouts  # noqa: E402
from agents.contract.measure import Trial  # noqa: E402
from agents.contract.rates import decode_tps, ttft_s  # noqa: E402
from agents.device_file import EngineEntry  # noqa: E402
from agents.engines.base import LoadPlace, Session  # noqa: E402
from agents.engines.llama.child import spin_count  # noqa: E402
from agents.engines.llama.server import LlamaServer  # noqa: E402
from agents.job.measure import measure  # noqa: E402
from agents.models.tiny.make import make_tiny  # noqa: E402
from tests.slow.build_llama import built, cache  # noqa: E402

PROMPT, DEPTH, GENERATED = 512, 512, 64
PP = Synthetic(f"pp{PROMPT}", prompt_tokens=PROMPT)
WARM_UP = Synthetic("pp64+tg8", prompt_tokens=64, generate_tokens=8)
# One more than llama-bench generates: the first token comes with the prompt, and a rate spans what follows it.
TG = Synthetic(f"tg{GENERATED} @ d{DEPTH}", generate_tokens=GENERATED + 1, depth=DEPTH)


@dataclass(frozen=True, slots=True)
class Round:
    """Tokens a second. ``late_s``: first token at the client, after the end of the engine's own prompt time."""

    ours_pp: float
    bench_pp: float
    ours_tg: float
    bench_tg: float
    late_s: float


class Ours:
    """``llama-server`` by its adapter, and trials as a job has them."""

    def __init__(self, program: Path, settings: LoadSettings, place: LoadPlace) -> None:
        self._engine = LlamaServer(EngineEntry(programs=(str(program),)))
        self._settings, self._place = settings, place

    def figures(self) -> tuple[float, float, float]:
        """Prompt and decode rate, and how late the first token was."""
        session = self._engine.load(self._settings, self._place)
        try:
            self._trial(session, WARM_UP)
            prompt, decode = self._trial(session, PP), self._trial(session, TG)
        finally:
            session.close()
        first, rate, spent = ttft_s(prompt), decode_tps(decode), prompt.engine.prompt_s
        assert first is not None and rate is not None and spent is not None
        return PROMPT / spent, rate, first - spent

    def _trial(self, session: Session, workload: Synthetic) -> Trial:
        timeouts = Timeouts(600.0, 600.0, 600.0)
        job = Job("j", 1, "c", "cell", "d", 0, self._settings, workload, warmups=0, timeouts=timeouts)
        (trial,) = measure(job, session, 0, threading.Event(), lambda *_: None)
        return trial


class Bench:
    """``llama-bench``, a process for each test."""

    def __init__(self, program: Path, model: Path, threads: int) -> None:
        self._command = [str(program), "-m", str(model), "-t", str(threads), "-fa", "on", "-ngl", "0", "-r", "1"]

    def rate(self, prompt: int, generated: int, depth: int) -> float:
        """Tokens a second of one test, after llama-bench's own warm-up."""
        test = ["-p", str(prompt), "-n", str(generated), "-d", str(depth), "-o", "json"]
        environment = {**os.environ, "GOMP_SPINCOUNT": spin_count()}
        done = subprocess.run([*self._command, *test], check=True, capture_output=True, env=environment)
        (result,) = json.loads(done.stdout)
        return float(result["avg_ts"])


def one_round(ours: Ours, bench: Bench, ours_first: bool) -> Round:
    def theirs() -> tuple[float, float]:
        return bench.rate(PROMPT, 0, 0), bench.rate(0, GENERATED, DEPTH)

    if ours_first:
        (pp, tg, late), (bench_pp, bench_tg) = ours.figures(), theirs()
    else:
        (bench_pp, bench_tg), (pp, tg, late) = theirs(), ours.figures()
    return Round(pp, bench_pp, tg, bench_tg, late)


def table(rounds: Sequence[Round]) -> str:
    def line(name: str, ours: list[float], bench: list[float]) -> str:
        ratios = [mine / other for mine, other in zip(ours, bench, strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        rates = f"{statistics.median(ours):.2f} | {statistics.median(bench):.2f}"
        return f"| {name} | {rates} | {statistics.median(ratios):.3f} | {spread} |"

    lates_ms = sorted(each.late_s * 1e3 for each in rounds)
    middle = statistics.median(lates_ms)
    return "\n".join(
        [
            "| test | llama-server, ours, tokens/s | llama-bench, tokens/s | ratio, median | ratio of a round |",
            "|---|---|---|---|---|",
            line(f"pp{PROMPT}", [each.ours_pp for each in rounds], [each.bench_pp for each in rounds]),
            line(TG.name, [each.ours_tg for each in rounds], [each.bench_tg for each in rounds]),
            "",
            f"First token at the client after the engine's own prompt time: median {middle:.2f} ms,"
            f" {lates_ms[0]:.2f} to {lates_ms[-1]:.2f} ms.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--quantisation", default="Q8_0", choices=["Q8_0", "Q4_0"])
    asked = parser.parse_args()
    server, bench = built("llama-server"), built("llama-bench")
    if server is None or bench is None:
        sys.exit("llama-server and llama-bench are not built: python tests/slow/build_llama.py")
    models = cache().parent / "models"
    model = make_tiny("llama-0.6b", asked.quantisation, models / "tiny").path
    settings = LoadSettings(
        "llama-server",
        "tiny:llama-0.6b",
        quantisation=asked.quantisation,
        runtime=Runtime.CPU,
        context_tokens=2 * DEPTH,
        flash_attention=True,
        threads=asked.threads,
        source=ModelSource(tiny="llama-0.6b"),
    )
    with tempfile.TemporaryDirectory() as folder:
        place = LoadPlace(models, Path(folder) / "log", 600.0, SystemClock(), threading.Event(), lambda _: None)
        ours, peer = Ours(server, settings, place), Bench(bench, model, asked.threads)
        rounds = [one_round(ours, peer, index % 2 == 0) for index in range(asked.rounds)]
    print(f"{model.name}, {asked.threads} threads, {len(rounds)} rounds; load average {os.getloadavg()[0]:.1f}\n")
    print(table(rounds))


if __name__ == "__main__":
    main()
