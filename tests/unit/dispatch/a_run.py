"""A run that has been submitted: a real ledger and a real store in a folder, its jobs by their ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agents.contract.device import Device
from orchestrator.dispatch.campaign import Campaign
from orchestrator.dispatch.fleet import Fleet
from orchestrator.dispatch.ledger import Ledger
from orchestrator.dispatch.loop import Coordinator, Happening
from orchestrator.matrix import Matrix, matrix_to_json
from orchestrator.plan.jobs import PlannedJob, job_id_of, plan_jobs
from orchestrator.results.store import Store
from tests.fakes.matrix_texts import world_of
from tests.unit.results.attempts_made_up import DEVICE

A = replace(DEVICE, device_id="id-a", name="alpha", fingerprint="aa")
B = replace(DEVICE, device_id="id-b", name="beta", fingerprint="bb")
RUN = "run-1"
THREE_CELLS = "axes: {model: tiny:llama, workload: pp8, context: [1K, 2K, 4K]}\nmeasure: {repeats: 1}\n"


@dataclass
class ARun:
    folder: Path
    devices: Sequence[Device] = (A,)
    text: str = THREE_CELLS
    told: list[Happening] = field(default_factory=list)
    when_told: Callable[[Happening], None] = lambda happening: None

    def __post_init__(self) -> None:
        self.matrix: Matrix
        self.matrix, cells = world_of(self.text)
        plan = plan_jobs(self.matrix, cells, self.devices)
        self.jobs: dict[str, PlannedJob] = {
            job_id_of(RUN, job.cell.cell_id, job.device_id, job.repeat): job
            for queue in plan.queues.values()
            for job in queue
        }
        self.ids = list(self.jobs)
        self.ledger = Ledger(self.folder / "ledger.sqlite")
        self.store = Store(self.folder)
        rows = ((job_id, job.cell.cell_id, job.device_id, job.repeat) for job_id, job in self.jobs.items())
        self.ledger.add(RUN, "three", matrix_to_json(self.matrix), rows)

    def coordinator(self, fleet: Fleet, stop_grace_s: float = 60.0) -> Coordinator:
        """As ``submit`` and ``resume`` make one: from what the ledger holds."""
        rows = self.ledger.jobs(RUN)
        waiting: dict[str, list[str]] = {device.device_id: [] for device in fleet.devices()}
        for row in rows:
            if row.state != "done" and row.device_id in waiting:
                waiting[row.device_id].append(row.job_id)
        campaign = Campaign(waiting, {row.job_id: row.attempt for row in rows})
        return Coordinator(
            RUN, self.matrix, self.jobs, campaign, fleet, self.ledger, self.store, self._tell, stop_grace_s
        )

    def _tell(self, happening: Happening) -> None:
        self.told.append(happening)
        self.when_told(happening)

    def states(self) -> list[tuple[str, int, str | None]]:
        """(state, attempt, cause) of each job in its order."""
        return [(row.state, row.attempt, row.cause) for row in self.ledger.jobs(RUN)]

    def stored(self) -> list[tuple[str, int, str]]:
        """(job_id, attempt, status) of each attempt in the store, in the order of the jobs."""
        if RUN not in self.store.runs():
            return []
        rows = self.store.load(RUN).to_pylist()
        attempts = {(row["job_id"], row["attempt"], row["status"]) for row in rows if not row["warmup"]}
        return sorted(attempts, key=lambda each: (self.ids.index(each[0]), each[1]))
