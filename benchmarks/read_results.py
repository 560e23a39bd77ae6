"""A run of 20,000 jobs as it is written, and as it is read: its files are merged while it goes on.

Attempts are kept one by one, or as many together as devices report in one round, by the coordinator's own store, with
the coordinator's own merging on its thread beside. Meanwhile another process reads again and again. Printed:
how long an append takes with and without merging (the coordinator's loop waits for it), how late a thread wakes that
does nothing else (what merging costs any other), and how long reading takes, in processes of their own.

    python benchmarks/read_results.py [--jobs 20000] [--together 16] [--folder .]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import random

from agents.contract.device import Device, MemoryKind
from agents.contract.job import Job, LoadSettings, Runtime, Synthetic
from agents.contract.measure import Arrival, EngineTimings, Reading, StopReason, Trial
from agents.contract.report import Loaded, Measured, Report
from orchestrator.dispatch.file_merger import FileMerger
from orchestrator.results.rows import Kept
from orchestrator.results.store import Store

RUN = "many"
TOKENS, READINGS, CELLS = 64, 60, 200
TICK_S = 0.002
DEVICE = Device("id-0", "device-0", "boot", "Linux", "6", "x86_64", "a CPU", 8, 16, 2**34, MemoryKind.NONE)


def kept(number: int) -> Kept:
    cell = number % CELLS
    load = LoadSettings("embedded", "tiny:llama", "Q8_0", Runtime.CPU, context_tokens=1024 * (1 + cell % 20))
    workload = Synthetic(f"tg{cell // 20}", prompt_tokens=8, generate_tokens=TOKENS)
    job = Job(f"{number:016x}", 1, RUN, f"cell-{cell}", DEVICE.device_id, number // CELLS, load, workload)
    trials = trial(number, 0), trial(number, 1)
    readings = tuple(Reading(0.1 * n, "cpu", "power", 12 + random(), "W") for n in range(READINGS))
    began = 1.7e9 + number
    outcome = Measured(Loaded(1.0, True, "b1"), trials)
    report = Report(job.job_id, 1, RUN, DEVICE.device_id, "f", "boot", began, began + 9, outcome, readings=readings)
    return Kept(job, report, DEVICE)


def trial(number: int, index: int) -> Trial:
    return Trial(
        index=index,
        warmup=index == 0,
        sent_unix_s=1.7e9 + number + index,
        arrivals=tuple(Arrival(0.1 * n + 0.02 * random(), n) for n in range(TOKENS)),
        ended_s=7.0,
        prompt_tokens=8,
        completion_tokens=TOKENS,
        reasoning_tokens=None,
        stop_reason=StopReason.LENGTH,
        engine=EngineTimings(),
    )


@dataclass
class Times:
    seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        ordered = sorted(self.seconds)
        most = [1000 * ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.5, 0.99, 1.0)]
        return "median {:.1f}, 99 % {:.1f}, most {:.1f} ms".format(*most)


@contextmanager
def ticking() -> Iterator[Times]:
    """How late a thread wakes that sleeps for TICK_S again and again."""
    late, ended = Times(), threading.Event()

    def tick() -> None:
        while not ended.is_set():
            began = time.perf_counter()
            time.sleep(TICK_S)
            late.seconds.append(time.perf_counter() - began - TICK_S)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield late
    finally:
        ended.set()
        thread.join()


def written(folder: Path, numbers: range, together: int, merger: FileMerger | None) -> Times:
    """Time of each append."""
    store, times = Store(folder), Times()
    for first in numbers[::together]:
        attempts = [kept(number) for number in range(first, min(first + together, numbers.stop))]
        began = time.perf_counter()
        store.append_many(attempts)
        if merger is not None:
            for _ in attempts:
                merger.attempt_kept(RUN)
        times.seconds.append(time.perf_counter() - began)
    if merger is not None:
        for thread in threading.enumerate():
            if thread.name == "merge":
                thread.join()
    return times


READER = """
from orchestrator.results.store import Store
store, least, reads = Store({folder!r}), 0, 0
print("reads", flush=True)
while least < 2 * {jobs}:
    table = store.read("many", columns=["status"], all_attempts=True)
    ids = table.table.column("job_id").to_pylist()
    assert not table.damaged, table.damaged
    assert len(ids) == 2 * len(set(ids)), "a row is there twice, or half a job"
    assert len(ids) >= least, (len(ids), least)
    least, reads = len(ids), reads + 1
print(reads)
"""


@contextmanager
def beside(folder: Path, jobs: int) -> Iterator[None]:
    """Another process that reads until all is there; it fails where a row is missing, or there twice."""
    script = READER.format(folder=str(folder), jobs=jobs)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."}
    )
    assert process.stdout is not None and process.stdout.readline()
    try:
        yield
        print(f"another process read all of it {process.communicate(timeout=120)[0].strip()} times meanwhile")
        assert process.returncode == 0
    finally:
        process.kill()


def timed(what: str, *command: str, home: Path) -> None:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"ORCHESTRATE_HOME": str(home)})
    print(f"{what}: {time.perf_counter() - began:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--together", type=int, default=1, help="attempts that come in one round of the coordinator")
    parser.add_argument("--folder", default=".", help="on the disk that is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as one, tempfile.TemporaryDirectory(dir=options.folder) as two:
        few, home = max(options.jobs // 10, 1), Path(two).resolve()
        with ticking() as late:
            times = written(Path(one), range(few), options.together, None)
        print(f"without merging: an append takes {times}; another thread wakes late by {late}")
        merger = FileMerger(home)
        with ticking() as late:
            times = written(home, range(options.jobs - few), options.together, merger)
        print(f"with merging: an append takes {times}; another thread wakes late by {late}")
        with beside(home, options.jobs):
            written(home, range(options.jobs - few, options.jobs), options.together, merger)
        files = list((home / "runs" / RUN / "trials").iterdir())
        size = sum(path.stat().st_size for path in files)
        print(f"{options.jobs:,} jobs lie in {len(files)} files, {size / 2**20:.0f} MiB")
        python = f"import orchestrator; assert orchestrator.load({RUN!r}).num_rows == {2 * options.jobs}"
        timed("python and its imports alone", sys.executable, "-c", "import pyarrow.parquet", home=home)
        timed("orchestrator.load", sys.executable, "-c", python, home=home)
        command = (sys.executable, "-m", "orchestrator")
        timed("orchestrate results", *command, "results", home=home)
        timed("orchestrate show", *command, "show", RUN, home=home)
        timed("orchestrate show --json", *command, "show", RUN, "--json", home=home)
        timed("orchestrate compare", *command, "compare", RUN, home=home)
        for table in ("trials", "tokens", "readings"):
            target = str(home / f"{table}.parquet")
            timed(f"orchestrate export {table}", *command, "export", RUN, target, "--table", table, home=home)
        began = time.perf_counter()
        assert len(Store(home).check(RUN).keys) == options.jobs
        print(f"every column and checksum of every file (resume, repair): {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
