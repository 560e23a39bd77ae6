"""1,000 devices and 100,000 jobs through the real planner and the real schedule, with a simulated clock.

Devices differ in speed; each starts in some split, reboots by itself (or waits for an operator) where the plan wants
another, loads models and runs jobs. The coordinator takes ``COORDINATOR_S`` for each event, one after the other.
What is reported: makespan against its lower bound (the busiest device's own work, with the fewest reboots that it can
do with), reboots against the fewest, wall time and peak memory of this process.

    python benchmarks/simulated_fleet.py [--devices 1000] [--cells 56]
"""

from __future__ import annotations

import argparse
import heapq
import random
import resource
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from agents.contract.device import Device, MemoryKind, StateSource
from agents.contract.report import Cause, Failed, Loaded, Measured, Report
from orchestrator.dispatch.messages import (
    AskOperator,
    AttemptEnded,
    Command,
    DeviceJoined,
    DeviceLost,
    Event,
    Keep,
    RunAdded,
    Send,
    SetSplit,
)
from orchestrator.dispatch.runs import pending_jobs, planned_run
from orchestrator.dispatch.schedule import Schedule
from orchestrator.matrix import expand, parse_matrix
from orchestrator.plan.jobs import PlannedJob, plan_jobs

GIB = 2**30
SPLITS = (GIB // 2, 32 * GIB, 48 * GIB)
COORDINATOR_S = 0.002  # 500 events a second: measured by benchmarks/noop_jobs.py
REBOOT_S, OPERATOR_S, LOAD_S = 90.0, 600.0, 20.0
MATRIX = """
name: simulated
axes:
  model: tiny:llama
  quantisation: [Q8_0, Q4_0]
  workload: [pp512, tg128]
  context: [{contexts}]
  dedicated_vram: [512MiB, 32GiB]
measure: {{repeats: 2}}
"""


def a_device(number: int, rng: random.Random) -> Device:
    return Device(
        device_id=f"id-{number}",
        name=f"device-{number}",
        boot_id="0",
        os="",
        kernel="",
        arch="",
        cpu="",
        physical_cores=16,
        logical_cores=32,
        ram_bytes=64 * GIB,
        memory_kind=MemoryKind.CARVE_OUT,
        dedicated_vram_bytes=rng.choice(SPLITS),
        split_source=StateSource.SEEN,
        sets_split=rng.random() < 0.5,
        carveout_options_bytes=SPLITS,
    )


@dataclass
class Machine:
    facts: Device
    speed: float
    loaded: object = None
    worked_s: float = 0.0  # jobs and loads
    reboots: int = 0
    reboot_s: float = 0.0


class Simulation:
    def __init__(self, devices: int, contexts: int, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        text = MATRIX.format(contexts=", ".join(str(1024 * (each + 1)) for each in range(contexts)))
        matrix = parse_matrix(text, Path("m.yaml"), lambda _: b"")
        self.machines = {
            each.device_id: Machine(each, self.rng.uniform(0.5, 2.0))
            for each in (a_device(number, self.rng) for number in range(devices))
        }
        plan = plan_jobs(matrix, expand(matrix), [machine.facts for machine in self.machines.values()])
        self.run = planned_run("run", matrix, plan)
        self.fewest = sum(self._fewest(machine) for machine in self.machines.values())
        self.schedule = Schedule()
        self.now_s = self.free_s = 0.0
        self.events: list[tuple[float, int, Event]] = []
        self.count = 0
        self.done = Counter[str]()

    def _fewest(self, machine: Machine) -> int:
        wanted = {GIB // 2, 32 * GIB}
        return len(wanted - {machine.facts.dedicated_vram_bytes})

    def later(self, seconds: float, event: Event) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now_s + seconds, self.count, event))

    def go(self) -> None:
        self.handle(RunAdded("run", 0, 0.0, pending_jobs(self.run)))
        for machine in self.machines.values():
            self.later(self.rng.uniform(0.0, 5.0), DeviceJoined(machine.facts))
        while self.events:
            at_s, _, event = heapq.heappop(self.events)
            self.now_s = max(at_s, self.free_s)
            self.free_s = self.now_s + COORDINATOR_S
            self.handle(event)

    def handle(self, event: Event) -> None:
        for command in self.schedule.handle(event):
            self.do(command)

    def do(self, command: Command) -> None:
        match command:
            case Send(_, job_id, attempt, device_id):
                self.start(self.machines[device_id], self.run.jobs[job_id], job_id, attempt)
            case SetSplit(device_id, split, _):
                self.reboot(self.machines[device_id], split, REBOOT_S)
            case AskOperator(device_id, _, state, _, _):
                assert state.dedicated_vram_bytes is not None
                self.reboot(self.machines[device_id], state.dedicated_vram_bytes, REBOOT_S + OPERATOR_S)
            case Keep(report):
                self.done[report.job_id] += 1
            case _:
                pass

    def start(self, machine: Machine, planned: PlannedJob, job_id: str, attempt: int) -> None:
        seconds = 0.0
        if machine.loaded != planned.cell.load:
            machine.loaded = planned.cell.load
            seconds += LOAD_S / machine.speed
        seconds += self.rng.lognormvariate(3.0, 0.5) / machine.speed
        machine.worked_s += seconds
        outcome = Measured(Loaded(1.0, False, ""), ()) if self.rng.random() < 0.95 else Failed(Cause.RAM, "")
        report = Report(job_id, attempt, "run", machine.facts.device_id, "", "", 0.0, seconds, outcome)
        self.later(seconds, AttemptEnded(report))

    def reboot(self, machine: Machine, split: int, seconds: float) -> None:
        machine.reboots += 1
        machine.reboot_s += seconds
        machine.loaded = None
        machine.facts = replace(machine.facts, boot_id=str(machine.reboots), dedicated_vram_bytes=split)
        self.later(1.0, DeviceLost(machine.facts.device_id, "reboots"))
        self.later(seconds, DeviceJoined(machine.facts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=56, help="cells, a multiple of 8; two repeats of each")
    options = parser.parse_args()
    began = time.perf_counter()
    simulation = Simulation(options.devices, max(options.cells // 8, 1))
    planned_s = time.perf_counter() - began
    simulation.go()
    wall_s = time.perf_counter() - began
    bound_s = max(machine.worked_s + machine.reboot_s for machine in simulation.machines.values())
    reboots = sum(machine.reboots for machine in simulation.machines.values())
    jobs = len(simulation.run.jobs)
    once = sum(simulation.done[job_id] == 1 for job_id in simulation.run.jobs)
    print(f"{options.devices:,} devices, {jobs:,} jobs: {once:,} done once, {jobs - once} not")
    print(f"makespan {simulation.now_s:,.0f} s, lower bound {bound_s:,.0f} s: {simulation.now_s / bound_s:.4f} times")
    print(f"reboots {reboots:,}, fewest {simulation.fewest:,}")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"planned in {planned_s:.1f} s, all in {wall_s:.1f} s; peak memory {peak_mib:,.0f} MiB")


if __name__ == "__main__":
    main()
