"""A run as the coordinator holds it in memory, and how it comes back from the ledger and the store after a restart."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache

from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import HUNG, Attempt, Cause, Report
from orchestrator.dispatch.ledger.ledger import JobRow, Ledger
from orchestrator.dispatch.messages import PendingJob, RunAdded
from orchestrator.dispatch.notices import DeviceName, JobName
from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.matrix import Cell, Matrix, canary_cell, expand, matrix_from_json
from orchestrator.plan.jobs import FIRST_CANARY, Plan, PlannedJob, in_their_states, job_id_of, job_of
from orchestrator.results.store import Store

CELLS_KEPT = 4096
"""Cells whose jobs are kept ready to be copied: a job is made for its send and for its result, on each device."""
DONE_AT_ONCE = 100


@dataclass
class Run:
    """``jobs`` by their ids, in the order of the plan."""

    run_id: str
    matrix: Matrix
    jobs: Mapping[str, PlannedJob]
    device_ids: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.device_ids = frozenset(job.device_id for job in self.jobs.values())
        self._of_cell = lru_cache(CELLS_KEPT)(self._made)

    def job(self, job_id: str, attempt: int) -> Job:
        """The complete job, as it travels."""
        planned = self.jobs[job_id]
        job, _ = self._of_cell(planned.cell)
        own = replace(job, job_id=job_id, attempt=attempt, device_id=planned.device_id, repeat=planned.repeat)
        return replace(own, state=planned.needed_state, canary=True) if planned.is_canary else own

    def name_of(self, job_id: str) -> JobName:
        planned = self.jobs[job_id]
        job, label = self._of_cell(planned.cell)
        if planned.is_canary:
            return JobName(job_id, job.cell_id, "canary", planned.repeat - FIRST_CANARY)
        return JobName(job_id, job.cell_id, label, planned.repeat)

    def _made(self, cell: Cell) -> tuple[Job, str]:
        return job_of(self.matrix, self.run_id, PlannedJob(cell, "", 0), 0), cell.label()


@dataclass
class Registry:
    """``addresses`` are those of the devices that are there now; ``troubles`` say by node why it is no device.

    ``unclaimed``: reports of runs that are not open; they lie on their devices' disks.
    """

    runs: dict[str, Run] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    unclaimed: dict[Attempt, Report] = field(default_factory=dict)

    def name_of(self, device_id: str) -> DeviceName:
        device = self.devices.get(device_id)
        return DeviceName(device_id, device.name if device else device_id)


def device_named(name: str, devices: Mapping[str, Device], present: Collection[str]) -> str:
    """The id of the device that a person means by its name or its id. Raises UsageError.

    A machine that was installed anew has another id and the same name: the one that is ``present`` is meant.
    """
    found = [key for key, device in devices.items() if name in (key, device.name)]
    found = [key for key in found if key in present] or found
    if len(found) > 1:
        raise UsageError(f"device {name!r}: several have this name; give an id: {', '.join(found)}")
    if not found:
        known = ", ".join(sorted(device.name for device in devices.values())) or "none"
        raise UsageError(f"device {name!r}: not known; known: {known}")
    return found[0]


def planned_run(run_id: str, matrix: Matrix, plan: Plan) -> Run:
    jobs = {
        job_id_of(run_id, job.cell.cell_id, job.device_id, job.repeat): job
        for queue in plan.queues.values()
        for job in queue
    }
    return Run(run_id, matrix, jobs)


def pending_jobs(run: Run) -> Sequence[PendingJob]:
    """All jobs of a new run."""
    return [
        PendingJob(job_id, job.device_id, job.needed_state, cell_id=job.cell.cell_id)
        for job_id, job in run.jobs.items()
    ]


def run_of_ledger(ledger: Ledger, run_id: str) -> Run:
    """Raises OrchestrateError for a run that is not there, or whose cells this version would make otherwise."""
    matrix = matrix_from_json(ledger.matrix(run_id))
    cells = {cell.cell_id: cell for cell in (*expand(matrix), *filter(None, [canary_cell(matrix)]))}
    rows = ledger.jobs(run_id)
    try:
        queues: dict[str, list[PlannedJob]] = {}
        for row in rows:
            queues.setdefault(row.device_id, []).append(PlannedJob(cells[row.cell_id], row.device_id, row.repeat))
    except KeyError as error:
        raise OrchestrateError(
            f"run {run_id}: made by another version of orchestrate, whose cells have other ids; submit the matrix anew"
        ) from error
    stated = {device_id: iter(in_their_states(queue)) for device_id, queue in queues.items()}
    return Run(run_id, matrix, {row.job_id: next(stated[row.device_id]) for row in rows})


def remaining_of(ledger: Ledger, store: Store, run: Run) -> RunAdded:
    """What remains of a run. A job whose result is in the store is done, though the ledger may not say so yet.

    Also one that the ledger never sent: it may be older than the results are, a backup that somebody put back.
    """
    row = ledger.run(run.run_id)
    jobs = [job for job in ledger.jobs(run.run_id) if job.state != "done"]
    kept = stored_attempts(run.run_id, store) if jobs else {}
    remaining = []
    # one by one where a crash left a few; an old ledger may lack thousands, and each would cost a flush
    with ledger.batch() if len(kept) > DONE_AT_ONCE else nullcontext():
        for job in jobs:
            found = kept.get(job.job_id)
            if found is not None and found.attempt >= max(job.attempt, 1):
                ledger.mark_done(job.job_id, found.attempt, found.cause, found.seconds)
                continue
            remaining.append(_pending(ledger, run, job))
    return RunAdded(run.run_id, row.priority, row.created_unix_s, remaining, row.status)


def _pending(ledger: Ledger, run: Run, job: JobRow) -> PendingJob:
    attempts = ledger.attempts(job.job_id) if job.failures else []
    return PendingJob(
        job.job_id,
        job.device_id,
        run.jobs[job.job_id].needed_state,
        job.attempt,
        job.failures,
        failure_counted=job.state == "waiting",  # else the end of the attempt never reached us
        cell_id=job.cell_id,
        hangs=sum((each.detail or "").startswith(HUNG) for each in attempts),
    )


@dataclass(frozen=True, slots=True)
class StoredAttempt:
    """The current attempt of a job by its rows: what came of it, and how long it took."""

    attempt: int
    cause: Cause | None
    seconds: float


def stored_attempts(run_id: str, store: Store) -> dict[str, StoredAttempt]:
    """By job, of those that have rows."""
    if run_id not in store.runs():
        return {}
    columns = ("job_id", "attempt", "cause", "started_at", "ended_at", "attempt_duration_s")
    found: dict[str, StoredAttempt] = {}
    for row in store.read(run_id, columns=columns).table.select(columns).to_pylist():
        cause = Cause(row["cause"]) if row["cause"] is not None else None
        before = found.get(row["job_id"])
        if before is not None and before.attempt > row["attempt"]:
            continue
        if before is not None and before.attempt == row["attempt"]:
            cause = cause or before.cause
        seconds = row["attempt_duration_s"]
        if seconds is None:  # rows of older versions: by the device's wall clock, which may have been set
            seconds = max((row["ended_at"] - row["started_at"]).total_seconds(), 0.0)
        found[row["job_id"]] = StoredAttempt(row["attempt"], cause, seconds)
    return found
