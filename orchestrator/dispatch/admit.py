"""A submitted matrix becomes a run: planned for the devices, its rows in the ledger, its folder on the disk."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agents.contract.device import Device
from agents.contract.report import Cause, Refused, Report
from agents.log import suppressed
from orchestrator.dispatch.api import Submission
from orchestrator.dispatch.ledger.file import LedgerBusy
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.ledger.record import record_of, write_record
from orchestrator.dispatch.runs import Run, planned_run
from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.matrix import Matrix, check_size, expand, matrix_from_json
from orchestrator.plan.jobs import Plan, PlannedJob, job_id_of, job_of, plan_jobs
from orchestrator.results.rows import Kept
from orchestrator.results.store import Store

log = logging.getLogger(__name__)

FREE_S, AGAIN_S = 8.0, 0.2


def admitted(
    submission: Submission, devices: Sequence[Device], ledger: Ledger, store: Store, root: Path
) -> tuple[Run, tuple[str, ...]]:
    """The run, as the ledger holds it from now on, and why each cell that fits no device does not.

    Raises UsageError, OrchestrateError; then it is in no ledger, and nothing of it will run.
    """
    matrix = matrix_from_json(submission.matrix_json)
    check_size(matrix, sum(map(matrix.devices.matches, devices)), confirmed=submission.confirmed)
    plan = plan_jobs(matrix, expand(matrix), devices)
    if plan.jobs == 0:
        raise UsageError(why_nothing_runs(matrix, plan, devices))
    run = planned_run(new_run(matrix.name, root), matrix, plan)
    rows = [(job_id, job.cell.cell_id, job.device_id, job.repeat) for job_id, job in run.jobs.items()]
    try:
        keep_unplaced(run, plan, store)  # before the run exists: a resume would not make them again
        _when_free(
            lambda: ledger.add(run.run_id, matrix.name, submission.matrix_json, rows, priority=submission.priority)
        )
    except OrchestrateError:
        shutil.rmtree(store.run_folder(run.run_id), ignore_errors=True)
        raise
    # behind the ledger: a run that it never took must not come out of a repair. The next start makes what is missing
    with suppressed(log, "RunNotRecorded", OrchestrateError, run=run.run_id):
        write_record(root, record_of(ledger, run.run_id))
    return run, tuple(why for _, why in plan.unplaced)


def _when_free(write: Callable[[], object]) -> None:
    """Waits ``FREE_S`` for another program that holds the ledger, outside of it: the loop waits for nobody here."""
    until_s = time.monotonic() + FREE_S
    while True:
        try:
            write()
        except LedgerBusy:
            if time.monotonic() > until_s:
                raise
            time.sleep(AGAIN_S)
        else:
            return


def new_run(name: str, root: Path) -> str:
    """NAME-DATE-TIME, with a number behind it where that is taken; its folder is made, so that nobody else takes it."""
    base = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    run = base
    while True:
        try:
            (root / "runs" / run).mkdir(parents=True)
        except FileExistsError:
            number += 1
            run = f"{base}-{number}"
        except OSError as error:
            raise OrchestrateError(f"{root / 'runs'}: cannot be written: {error.strerror or error}") from error
        else:
            return run


def keep_unplaced(run: Run, plan: Plan, store: Store) -> None:
    """A cell that no device may run is a row too."""
    now = time.time()
    rows = []
    for cell, why in plan.unplaced:
        asked_for = cell.device or ""  # equal cells that name two devices are two rows
        job_id = job_id_of(run.run_id, cell.cell_id, asked_for, 0)
        report = Report.unmeasured((job_id, 1), run.run_id, Refused(Cause.NO_DEVICE, why), now, asked_for)
        job = job_of(run.matrix, run.run_id, PlannedJob(cell, asked_for, 0), 1)
        rows.append(Kept(job, report, None))
    store.append_many(rows)


def why_nothing_runs(matrix: Matrix, plan: Plan, devices: Sequence[Device]) -> str:
    lines = [f"{matrix.path}: no device can run any cell of this matrix:"]
    lines += [f"  {device.name}: {why}" for device in devices if (why := matrix.devices.why_not(device))]
    lines += [f"  {why}" for why in sorted({why for _, why in plan.unplaced})]
    return "\n".join(lines)
