"""10,000 jobs that do nothing, through the real ledger, Ray and store: how many a second? And an idle agent's load.

Agents are Ray actors that answer each job with a report at once; coordinator, ledger and store are the real ones, in
this process, on this machine's disk. Several agents stand on one node, as if each were a device. Beside it, in the
same run: the same jobs into ledger and store alone, without Ray; and the jobs with the coordinator's log on and off,
in turn, for what the log costs.

    python benchmarks/noop_jobs.py [--jobs 10000] [--devices 8]
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

import orchestrator.dispatch.on_ray  # noqa: F401  before ray: it reads its environment on import

import ray  # isort: skip

from agents.agent.agent import Agent
from agents.agent.calls import AgentStatus, Hello
from agents.contract.device import Device, MemoryKind
from agents.contract.job import Job
from agents.contract.measure import Arrival, EngineTimings, StopReason, Trial
from agents.contract.report import Attempt, Loaded, Measured, Report
from agents.log import COORDINATOR, LEVEL_VARIABLE, start_log_file, stop_log
from orchestrator.dispatch.board import NoticeBoard
from orchestrator.dispatch.file_merger import FileMerger
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.loop import CoordinatorLoop
from orchestrator.dispatch.messages import Keep, RunAdded, Send
from orchestrator.dispatch.on_ray.connect import Connection
from orchestrator.dispatch.on_ray.fleet import RayFleet
from orchestrator.dispatch.persist import Persister
from orchestrator.dispatch.runs import pending_jobs, planned_run
from orchestrator.matrix import expand, matrix_to_json, parse_matrix
from orchestrator.plan.jobs import plan_jobs
from orchestrator.results.store import Store

RUN = "noop"
MATRIX = "name: noop\naxes: {{model: tiny:llama, workload: pp8, context: [1K, 2K]}}\nmeasure: {{repeats: {repeats}}}\n"
TRIAL = Trial(
    index=0,
    warmup=False,
    sent_unix_s=1.7e9,
    arrivals=tuple(Arrival(0.1 * n, n) for n in range(8)),
    ended_s=1.0,
    prompt_tokens=8,
    completion_tokens=8,
    reasoning_tokens=None,
    stop_reason=StopReason.LENGTH,
    engine=EngineTimings(),
)


def a_device(number: int) -> Device:
    import importlib.metadata

    version = importlib.metadata.version("orchestrate-bench")
    return Device(
        f"id-{number}", f"device-{number}", "boot", "", "", "", "", 1, 1, 2**34, MemoryKind.NONE, agent_version=version
    )


class NoopAgent:
    def __init__(self, number: int) -> None:
        self._device = a_device(number)

    def hello(self, _term: int) -> Hello:
        return Hello(self._device, AgentStatus(None, "idle", 0, None, ()))

    def start_packed(self, packed: bytes) -> AgentStatus:
        job, *_ = pickle.loads(packed)
        return AgentStatus(None, "idle", 0, None, (report_of(job, self._device),))

    def acknowledge(self, *_to_acknowledge: Attempt) -> None: ...

    def unload(self) -> None: ...

    def close(self) -> None: ...


def report_of(job: Job, device: Device) -> Report:
    outcome = Measured(Loaded(1.0, True, "b1"), (TRIAL,))
    device_id = device.device_id
    return Report(job.job_id, job.attempt, job.run_id, device_id, "f", "boot", 1.7e9, 1.7e9 + 1, outcome)


class NoopFleet(RayFleet):
    """``devices`` agents on one node."""

    def __init__(self, devices: int) -> None:
        super().__init__(detached=False)
        self._count = devices

    def _list_nodes(self) -> list[dict[str, Any]]:
        (node,) = super()._list_nodes()
        return [node | {"NodeID": str(number)} for number in range(self._count)]

    def _make_agent(self, node_id: str) -> Any:
        agent: Any = ray.remote(NoopAgent)
        return agent.options(num_cpus=0, max_concurrency=4).remote(int(node_id))


def submitted(folder: Path, jobs: int, devices: list[Device]) -> tuple[Ledger, Store, Any]:
    matrix = parse_matrix(MATRIX.format(repeats=max(jobs // len(devices) // 2, 1)), Path("m.yaml"), lambda _: b"")
    run = planned_run(RUN, matrix, plan_jobs(matrix, expand(matrix), devices))
    ledger = Ledger(folder / "ledger.sqlite")
    rows = ((job_id, job.cell.cell_id, job.device_id, job.repeat) for job_id, job in run.jobs.items())
    ledger.add(RUN, "noop", matrix_to_json(matrix), rows)
    return ledger, Store(folder), run


@dataclass(frozen=True)
class Speed:
    """``cpu_s``: what a job takes of the coordinator's thread; other load on the machine moves it little."""

    jobs_per_s: float
    cpu_s: float


def through_ray(folder: Path, jobs: int, devices: int, level: str = "info") -> Speed:
    """With a log at ``level``, as ``ORCHESTRATE_LOG`` has it."""
    os.environ[LEVEL_VARIABLE] = level
    start_log_file(COORDINATOR, folder)
    ledger, store, run = submitted(folder, jobs, [a_device(number) for number in range(devices)])
    fleet = NoopFleet(devices)
    loop = CoordinatorLoop(fleet, ledger, store, NoticeBoard(), long_lived=True, merger=FileMerger(folder))
    while len(loop.registry.addresses) < devices:
        loop.round()
    began, cpu_began = time.perf_counter(), time.thread_time()
    loop.registry.runs[RUN] = run
    loop.handle([RunAdded(RUN, 0, 0.0, pending_jobs(run))])
    loop.run(until=lambda: RUN not in loop.registry.runs)
    seconds, cpu_s = time.perf_counter() - began, time.thread_time() - cpu_began
    stop_log()
    for thread in threading.enumerate():
        if thread.name == "merge":  # the last files are merged behind the run's end
            thread.join()
    rows = store.load(RUN).num_rows
    assert rows == len(run.jobs) == ledger.run(RUN).done, (rows, len(run.jobs))
    fleet.close()
    ledger.close()
    return Speed(len(run.jobs) / seconds, cpu_s / len(run.jobs))


def log_on_and_off(jobs: int, devices: int, pairs: int) -> tuple[Speed, Speed]:
    """In turn, so that both have the same other load; the median of each."""
    speeds: dict[str, list[Speed]] = {"info": [], "off": []}
    for number in range(pairs):
        for level in ("info", "off") if number % 2 else ("off", "info"):
            with tempfile.TemporaryDirectory(dir=".") as folder:
                speeds[level].append(through_ray(Path(folder), jobs, devices, level))
    on, off = (
        Speed(median(each.jobs_per_s for each in found), median(each.cpu_s for each in found))
        for found in speeds.values()
    )
    return on, off


def without_ray(folder: Path, jobs: int, devices: int) -> float:
    """The same writes, as many a round as there are devices; jobs a second."""
    known = {each.device_id: each for each in (a_device(number) for number in range(devices))}
    ledger, store, run = submitted(folder, jobs, list(known.values()))
    records = Persister(ledger, store, {RUN: run}, known, 1)
    ids = list(run.jobs)
    began = time.perf_counter()
    for start in range(0, len(ids), devices):
        group = ids[start : start + devices]
        sends = [Send(RUN, job_id, 1, run.jobs[job_id].device_id) for job_id in group]
        made = [run.job(job_id, 1) for job_id in group]
        keeps = [Keep(report_of(job, known[job.device_id])) for job in made]
        records.write([*keeps, *sends])
    seconds = time.perf_counter() - began
    ledger.close()
    return len(ids) / seconds


def idle_agent(seconds: float) -> float:
    """Share of one core, in %, of a real agent that has nothing to do, before the coordinator ends it."""
    agent: Any = ray.remote(Agent)
    with tempfile.TemporaryDirectory() as folder:
        handle = agent.options(num_cpus=0, max_concurrency=8).remote(Path(folder))
        ray.get(handle.hello.remote())
        ray.get(handle.unload.remote())
        found = [each for each in psutil.process_iter() if each.name().startswith("ray::Agent")]
        time.sleep(5.0)  # what its start still does
        before = sum(sum(each.cpu_times()[:2]) for each in found)
        time.sleep(seconds)
        after = sum(sum(each.cpu_times()[:2]) for each in found)
        ray.get(handle.close.remote())
        ray.kill(handle)
    return 100 * (after - before) / seconds / max(len(found), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5, help="runs with the log on and off, a fifth of the jobs each")
    options = parser.parse_args()
    connection = Connection("local")
    try:
        with tempfile.TemporaryDirectory(dir=".") as one, tempfile.TemporaryDirectory(dir=".") as other:
            alone = without_ray(Path(one), options.jobs, options.devices)
            through = through_ray(Path(other), options.jobs, options.devices)
        on, off = log_on_and_off(max(options.jobs // 5, 2 * options.devices), options.devices, options.pairs)
        print(f"{options.jobs:,} jobs that do nothing, {options.devices} devices: {through.jobs_per_s:.0f} a second")
        print(
            f"with the log {on.jobs_per_s:.0f} a second, without {off.jobs_per_s:.0f}"
            f" ({100 * (1 - on.jobs_per_s / off.jobs_per_s):+.1f} % slower); a job takes {on.cpu_s * 1e6:.0f} us"
            f" of the coordinator's thread with it, {off.cpu_s * 1e6:.0f} us without:"
            f" {100 * (on.cpu_s - off.cpu_s) * off.jobs_per_s:.1f} % of a second's jobs"
        )
        print(f"ledger and store alone: {alone:.0f} a second")
        print(f"an idle agent, until it is ended: {idle_agent(30.0):.2f} % of one core")
    finally:
        connection.close()


if __name__ == "__main__":
    main()
