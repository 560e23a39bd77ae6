"""What telemetry costs: CPU of the sampler, and the decode rate of one loaded engine with and without it, in turns.

One engine holds the model, for two engines with the same model were seen to differ by 6 % all the time. The sampler
that a job process would have runs beside every other job, and follows the engine. Who begins changes from pair to pair.
Goals: at most 1 % of a core for the sampler at 5 Hz, and a rate of at least 0.99 of that without.

First, with a busy loop on every core: how far a reading's time stamp, the middle of the time that the reading took,
can be from the moment at which its source was read. Goal: 5 ms.

    python benchmarks/observer_effect.py [--pairs 10] [--readings 100] [--tokens 128] [--model llama-0.6b] [--threads 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from agents.agent.agent import Agent
from agents.contract.job import Job, LoadSettings, ModelSource, Synthetic, Timeouts
from agents.contract.rates import decode_tps
from agents.contract.report import Measured
from agents.telemetry.recorder import QUIET_VARIABLE, TELEMETRY_VARIABLE
from agents.telemetry.sampler import PERIOD_S, find
from agents.telemetry.sampling import SamplerProcess
from agents.telemetry.sources import SOURCES


def rate_of(agent: Agent, job: Job) -> float:
    """The decode rate of one job, tokens/s."""
    agent.start(job)
    while not (reports := agent.poll(5.0).reports):
        pass
    agent.acknowledge(*((each.job_id, each.attempt) for each in reports))
    outcome = reports[-1].outcome
    rate = decode_tps(outcome.trials[-1]) if isinstance(outcome, Measured) else None
    if rate is None:
        raise SystemExit(f"the job brought no rate: {outcome}")
    return rate


def engine_pid() -> int:
    for child in psutil.Process().children(recursive=True):
        if "agents.engines.llama.embedded_child" in child.cmdline():
            return child.pid
    raise SystemExit("no engine runs")


def cpu_s(pid: int) -> float:
    """Of all its threads, to the nanosecond: the kernel's ticks of 10 ms miss what runs for less than one."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def sampled(pid: int, shares: list[float]) -> Iterator[None]:
    """Within, a sampler that has found its sources; ``shares`` gets the part of a core that it used, and its values."""
    sampler = SamplerProcess()
    try:
        sampler.follow([pid])
        sampler.take()
        assert sampler.pid is not None
        before_s, began = cpu_s(sampler.pid), time.perf_counter()
        yield
        shares.append((cpu_s(sampler.pid) - before_s) / (time.perf_counter() - began))
        if not sampler.take().rows:
            raise SystemExit("the sampler read nothing")
    finally:
        sampler.close()


@contextmanager
def all_cores_busy() -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def stamps(readings: int) -> None:
    """Half of the time that a reading of each of this machine's sources takes, at 5 Hz."""
    sources, _ = find(SOURCES, Path("/"))
    halves_ms: dict[str, list[float]] = {source.name: [] for source in sources}
    with all_cores_busy():
        for _ in range(readings):
            time.sleep(PERIOD_S)
            for source in sources:
                before = time.perf_counter()
                source.read()
                halves_ms[source.name].append((time.perf_counter() - before) * 500)
    for source in sources:
        several = halves_ms[source.name]
        print(f"stamps of {source.name}: off by {statistics.median(several):.3f} ms at most in the median,", end=" ")
        print(f"{max(several):.3f} ms at worst, {readings} readings (goal: at most 5 ms)")
        source.close()


def compare(run: Callable[[], float], pid: int, pairs: int) -> None:
    shares: list[float] = []
    rates: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(pairs):
        for telemetry in (False, True) if pair % 2 == 0 else (True, False):
            if telemetry:
                with sampled(pid, shares):
                    rates[True].append(run())
            else:
                rates[False].append(run())
        without, with_it = rates[False][-1], rates[True][-1]
        print(f"pair {pair + 1}: without {without:.2f}, with {with_it:.2f} tokens/s, {with_it / without:.4f}")
    ratios = [b / a for a, b in zip(rates[False], rates[True], strict=True)]
    medians = [statistics.median(rates[telemetry]) for telemetry in (False, True)]
    print(f"sampler: {100 * statistics.mean(shares):.2f} % of a core (goal: at most 1 %)")
    print(f"median rate: without {medians[0]:.2f}, with {medians[1]:.2f} tokens/s: {medians[1] / medians[0]:.4f}")
    print(
        f"ratio of a pair: median {statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f} (goal: 0.99)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--readings", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--model", default="llama-0.6b", help="a tiny model")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 2)
    asked = parser.parse_args()
    stamps(asked.readings)
    os.environ |= {QUIET_VARIABLE: "off", TELEMETRY_VARIABLE: "off"}  # of the job process: the sampler is ours here
    load = LoadSettings(
        *("embedded", f"tiny:{asked.model}", "Q4_0"),
        context_tokens=1024,
        threads=asked.threads,
        source=ModelSource(tiny=asked.model),
    )
    workload = Synthetic("tg", prompt_tokens=32, generate_tokens=asked.tokens)
    job = Job(
        "job", 1, "bench", "cell", "device", 0, load, workload, warmups=0, timeouts=Timeouts(600.0, 600.0, 3600.0)
    )
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent(Path(folder), idle_s=3600.0)
        numbers = iter(range(1_000_000))

        def run() -> float:
            return rate_of(agent, replace(job, job_id=f"job-{next(numbers)}"))

        try:
            run()  # loads, and is not counted
            compare(run, engine_pid(), asked.pairs)
        finally:
            agent.close()


if __name__ == "__main__":
    main()
