"""What telemetry costs: CPU of the sampler, and the decode rate with and without it, in turns.

Two agents hold the same model, one with telemetry and one without; they take turns, and who begins changes from pair to
pair. Goals: at most 1 % of a core for the sampler at 5 Hz, and a rate of at least 0.99 of that without.

    python benchmarks/observer_effect.py [--pairs 10] [--tokens 128] [--model llama-0.6b] [--threads 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from agents.agent import Agent
from agents.contract.job import Job, LoadSettings, ModelSource, Synthetic, Timeouts
from agents.contract.rates import decode_tps
from agents.contract.report import Measured, Report
from agents.telemetry.watch import QUIET_VARIABLE, TELEMETRY_VARIABLE

IDLE_S = 3600.0  # an agent keeps its model while the other has its turn


@dataclass
class Side:
    """One agent, with or without telemetry."""

    agent: Agent
    telemetry: bool
    jobs: int = 0

    def run(self, job: Job) -> float:
        """The decode rate of one job."""
        self.jobs += 1
        os.environ[TELEMETRY_VARIABLE] = "on" if self.telemetry else "off"  # of the job process, at its start
        self.agent.start(replace(job, job_id=f"job-{self.jobs}"))
        report = self._report()
        if not isinstance(report.outcome, Measured):
            raise SystemExit(f"the job failed: {report.outcome}")
        if bool(report.readings) is not self.telemetry:
            raise SystemExit(f"telemetry should be {'on' if self.telemetry else 'off'}, and is not")
        rate = decode_tps(report.outcome.trials[-1])
        assert rate is not None
        return rate

    def _report(self) -> Report:
        while not (reports := self.agent.poll(5.0).reports):
            pass
        self.agent.collected(*((each.job_id, each.attempt) for each in reports))
        return reports[-1]


def sampler_process() -> psutil.Process:
    for child in psutil.Process().children(recursive=True):
        if "agents.telemetry.sampler" in child.cmdline():
            return child
    raise SystemExit("no sampler runs")


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--model", default="llama-0.6b", help="a tiny model")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 2)
    asked = parser.parse_args()
    os.environ[QUIET_VARIABLE] = "off"
    load = LoadSettings(
        *("embedded", f"tiny:{asked.model}", "Q4_0"),
        context_tokens=1024,
        threads=asked.threads,
        source=ModelSource(tiny=asked.model),
    )
    workload = Synthetic("tg", prompt_tokens=32, generate_tokens=asked.tokens)
    job = Job("job", 1, "bench", "cell", "device", 0, load, workload, timeouts=Timeouts(600.0, 600.0, 3600.0))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ends:
        root = Path(folder)
        (root / "models").mkdir()
        sides = []
        for telemetry in (False, True):
            own = root / ("with" if telemetry else "without")
            own.mkdir()
            (own / "models").symlink_to(root / "models")
            agent = Agent(own, idle_s=IDLE_S)
            ends.callback(agent.close)
            sides.append(Side(agent, telemetry))
        report(sides, job, asked.pairs)


def report(sides: list[Side], job: Job, pairs: int) -> None:
    without, with_it = sides
    for side in sides:
        side.run(job)  # loads, and the first is not counted
    sampler = sampler_process()
    before_s, began = cpu_s(sampler), time.perf_counter()
    ratios, rates = [], []
    for pair in range(pairs):
        turn = (without, with_it) if pair % 2 == 0 else (with_it, without)
        found = {side.telemetry: side.run(job) for side in turn}
        rates.append(found)
        ratios.append(found[True] / found[False])
        print(f"pair {pair + 1}: without {found[False]:.2f}, with {found[True]:.2f} tokens/s, {ratios[-1]:.4f}")
    share = 100 * (cpu_s(sampler) - before_s) / (time.perf_counter() - began)
    medians = [statistics.median(found[telemetry] for found in rates) for telemetry in (False, True)]
    print(f"sampler: {share:.2f} % of a core (goal: at most 1 %)")
    print(f"median rate: without {medians[0]:.2f}, with {medians[1]:.2f} tokens/s: {medians[1] / medians[0]:.4f}")
    print(
        f"ratio of a pair: median {statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f} (goal: 0.99)"
    )


if __name__ == "__main__":
    main()
