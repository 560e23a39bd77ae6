"""A run that has been submitted: a real ledger and a real store in a folder, devices in simulated time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import Outcome
from orchestrator.dispatch.board import NoticeBoard
from orchestrator.dispatch.file_merger import FileMerger
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.loop import CoordinatorLoop
from orchestrator.dispatch.notices import JobProgress, Notice
from orchestrator.dispatch.runs import planned_run
from orchestrator.matrix import Matrix, matrix_to_json
from orchestrator.plan.jobs import plan_jobs
from orchestrator.results.store import Store
from tests.fakes.matrices import matrix_and_cells
from tests.fakes.simulated_fleet import SimulatedDevice, SimulatedFleet, World
from tests.unit.results.made_attempts import DEVICE, MEASURED

A = replace(DEVICE, device_id="id-a", name="alpha", fingerprint="aa")
B = replace(DEVICE, device_id="id-b", name="beta", fingerprint="bb")
RUN = "run-1"
THREE_CELLS = "axes: {model: tiny:llama, workload: pp8, context: [1K, 2K, 4K]}\nmeasure: {repeats: 1}\n"
JOB_S = 10.0


def measured(_: Job) -> Outcome:
    return MEASURED


@dataclass
class SubmittedRun:
    """``outcome`` says how each job ends; it takes ten simulated seconds."""

    folder: Path
    facts: Sequence[Device] = (A,)
    text: str = THREE_CELLS
    outcome: Callable[[Job], Outcome] = measured
    told: list[Notice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.matrix: Matrix
        self.matrix, cells = matrix_and_cells(self.text)
        self.run = planned_run(RUN, self.matrix, plan_jobs(self.matrix, cells, self.facts))
        self.ids = list(self.run.jobs)
        self.ledger = Ledger(self.folder / "ledger.sqlite")
        self.store = Store(self.folder)
        rows = ((key, job.cell.cell_id, job.device_id, job.repeat) for key, job in self.run.jobs.items())
        self.ledger.add(RUN, "three", matrix_to_json(self.matrix), rows)
        self.world = World()
        self.devices = [
            SimulatedDevice(self.world, facts, lambda job: (self.outcome(job), JOB_S)) for facts in self.facts
        ]

    def fleet(self) -> SimulatedFleet:
        return SimulatedFleet(self.world, self.devices)

    def coordinator(
        self, fleet: SimulatedFleet, *, long_lived: bool = False, merger: FileMerger | None = None
    ) -> CoordinatorLoop:
        """As the service makes one: from what the ledger holds."""
        loop = CoordinatorLoop(
            fleet,
            self.ledger,
            self.store,
            _Told(self.told),
            long_lived=long_lived,
            merger=merger,
            monotonic=lambda: self.world.now_s,
        )
        loop.resume_runs()
        return loop

    def complete(self, loop: CoordinatorLoop, within_s: float = 10_000.0) -> None:
        """Until every job is done."""
        until_s = self.world.now_s + within_s
        loop.run(until=lambda: self.left() == 0 or self.world.now_s > until_s)
        assert self.left() == 0, self.states()

    def left(self) -> int:
        return self.ledger.run(RUN).remaining

    def states(self) -> list[tuple[str, int, str | None]]:
        """(state, attempt, cause) of each job in its order."""
        return [(row.state, row.attempt, row.cause) for row in self.ledger.jobs(RUN)]

    def stored(self) -> list[tuple[str, int, str]]:
        """(job_id, attempt, status) of each attempt in the store, in the order of the jobs."""
        if RUN not in self.store.runs():
            return []
        rows = self.store.load(RUN, all_attempts=True).to_pylist()
        attempts = {(row["job_id"], row["attempt"], row["status"]) for row in rows if not row["warmup"]}
        return sorted(attempts, key=lambda each: (self.ids.index(each[0]), each[1]))


class _Told(NoticeBoard):
    """Writes down what is told, but for progress."""

    def __init__(self, told: list[Notice]) -> None:
        super().__init__()
        self._told = told

    def post(self, run: str, notice: Notice) -> None:
        assert not isinstance(notice, JobProgress)
        self._told.append(notice)
        super().post(run, notice)
