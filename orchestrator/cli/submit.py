"""``orchestrate submit`` and ``orchestrate resume``: from a matrix to a table."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from agents.contract.device import Device
from agents.contract.report import Cause, Refused, Report
from agents.places import data_root
from orchestrator.cli.home import ledger_path, run_named
from orchestrator.cli.results import summary_of
from orchestrator.cli.view import JsonView, LinesView, Opening, View
from orchestrator.cli.words import counted
from orchestrator.dispatch.campaign import Campaign
from orchestrator.dispatch.fleet import Fleet
from orchestrator.dispatch.ledger import Ledger
from orchestrator.dispatch.loop import Coordinator, keep_report
from orchestrator.dispatch.recover import recover
from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.matrix import Matrix, check_size, expand, matrix_from_json, matrix_to_json, read_matrix
from orchestrator.plan.jobs import Plan, PlannedJob, job_id_of, plan_jobs
from orchestrator.results.store import Store

INTERRUPTED = 130
COMPACT_FROM = 500
"""Jobs from which a finished run's files are merged into one: 5,000 single ones take seconds to read."""


@dataclass(frozen=True, slots=True)
class Work:
    """A run that is to be brought to its end: its jobs, and which of them wait on which device."""

    run: str
    matrix: Matrix
    jobs: Mapping[str, PlannedJob]
    waiting: Mapping[str, list[str]]
    attempts: Mapping[str, int]
    done: int
    unplaced: tuple[str, ...] = ()  # why, for each cell that fits no device

    def opening(self, devices: Sequence[Device]) -> Opening:
        waiting = {device: len(jobs) for device, jobs in self.waiting.items()}
        return Opening(self.run, self.matrix, tuple(devices), len(self.jobs), self.done, waiting, self.unplaced)


def view_for(as_json: bool) -> View:
    if as_json:
        return JsonView()
    if not sys.stdout.isatty():
        return LinesView()
    from orchestrator.cli.live import LiveView

    return LiveView()


def submit_matrix(file: Path, *, address: str | None, as_json: bool, yes: bool) -> None:
    matrix = read_matrix(file)
    cells = expand(matrix)
    check_size(matrix, cells, 1, confirmed=yes)
    view = view_for(as_json)
    with _fleet(address, view) as fleet:
        devices = list(fleet.devices())
        check_size(matrix, cells, sum(map(matrix.devices.matches, devices)), confirmed=yes)
        plan = plan_jobs(matrix, cells, devices)
        if plan.jobs == 0:
            raise UsageError(_why_nothing_runs(matrix, plan, devices))
        root = data_root()
        run = _new_run(matrix.name, root)
        with _working_on(run, root), contextlib.closing(Ledger(ledger_path(root))) as ledger:
            jobs = _jobs_of(run, plan)
            ledger.saw(devices)
            rows = ((job_id, job.cell.cell_id, job.device_id, job.repeat) for job_id, job in jobs.items())
            _keep_unplaced(run, matrix, plan, root)  # before the run exists: a resume would not make them again
            ledger.add(run, matrix.name, matrix_to_json(matrix), rows)
            waiting: dict[str, list[str]] = {device: [] for device in plan.queues}
            for job_id, job in jobs.items():
                waiting[job.device_id].append(job_id)
            unplaced = tuple(why for _, why in plan.unplaced)
            _work(Work(run, matrix, jobs, waiting, {}, 0, unplaced), fleet, ledger, root, view)


def resume_run(name: str, *, address: str | None, as_json: bool) -> None:
    root = data_root()
    run = run_named(name)
    view = view_for(as_json)
    with _working_on(run, root), contextlib.closing(Ledger(ledger_path(root))) as ledger:
        if all(row.state == "done" for row in ledger.jobs(run)):
            view.say(f"run {run}: all jobs are done")
            _finish(run, root, view, complete=True)
            return
        matrix = matrix_from_json(ledger.matrix(run))
        jobs = _jobs_again(run, matrix, ledger)
        with _fleet(address, view) as fleet:
            devices = list(fleet.devices())
            ledger.saw(devices)
            recover(run, matrix, jobs, ledger, Store(root), fleet)
            _work(_unfinished(run, matrix, jobs, ledger, devices), fleet, ledger, root, view)


def _work(work: Work, fleet: Fleet, ledger: Ledger, root: Path, view: View) -> None:
    campaign = Campaign(work.waiting, work.attempts)
    coordinator = Coordinator(work.run, work.matrix, work.jobs, campaign, fleet, ledger, Store(root), view.tell)
    view.begin(work.opening(fleet.devices()))
    with _ctrl_c(coordinator), view.live():
        coordinator.run()
    left = sum(row.state != "done" for row in ledger.jobs(work.run))
    if left == 0 and len(work.jobs) >= COMPACT_FROM:
        Store(root).compact(work.run)
    _finish(work.run, root, view, complete=left == 0)
    if left:
        view.say(f"{left} of {counted(len(work.jobs), 'job')} left; go on with: orchestrate resume {work.run}")
        sys.exit(INTERRUPTED if coordinator.stopped else 1)


@contextlib.contextmanager
def _fleet(address: str | None, view: View) -> Iterator[Fleet]:
    """The fleet over Ray, closed whatever happens."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # before there is work to stop, it ends as Ctrl-C does
    view.say("joining the Ray cluster, or starting one on this machine ...")
    from orchestrator.dispatch.ray_fleet import RayFleet

    with contextlib.redirect_stdout(sys.stderr):  # Ray prints its raylet's words; the view holds the real one
        fleet = RayFleet(address)
        try:
            yield fleet
        finally:
            fleet.close()


@contextlib.contextmanager
def _ctrl_c(coordinator: Coordinator) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) asks for a clean end; a second one ends at once."""

    def asked(_signal: int, _frame: FrameType | None) -> None:
        if coordinator.stopped:
            raise KeyboardInterrupt
        coordinator.stop()  # and no more here: a print that a signal interrupts must not print again

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _working_on(run: str, root: Path) -> Iterator[None]:
    """One coordinator a run."""
    path = root / "runs" / run / "coordinator.lock"
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OrchestrateError(f"run {run}: another process is working on it") from error
    except OSError as error:
        raise OrchestrateError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _new_run(name: str, root: Path) -> str:
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


def _jobs_of(run: str, plan: Plan) -> dict[str, PlannedJob]:
    return {
        job_id_of(run, job.cell.cell_id, job.device_id, job.repeat): job
        for queue in plan.queues.values()
        for job in queue
    }


def _jobs_again(run: str, matrix: Matrix, ledger: Ledger) -> dict[str, PlannedJob]:
    """The jobs as the ledger holds them, in their order."""
    cells = {cell.cell_id: cell for cell in expand(matrix)}
    try:
        return {row.job_id: PlannedJob(cells[row.cell_id], row.device_id, row.repeat) for row in ledger.jobs(run)}
    except KeyError as error:
        raise OrchestrateError(
            f"run {run}: made by another version of orchestrate, whose cells have other ids; submit the matrix anew"
        ) from error


def _unfinished(
    run: str, matrix: Matrix, jobs: Mapping[str, PlannedJob], ledger: Ledger, devices: list[Device]
) -> Work:
    rows = ledger.jobs(run)
    waiting: dict[str, list[str]] = {device.device_id: [] for device in devices}
    missing: dict[str, int] = {}
    for row in rows:
        if row.state == "done":
            continue
        if row.device_id in waiting:
            waiting[row.device_id].append(row.job_id)
        else:
            missing[row.device_id] = missing.get(row.device_id, 0) + 1
    if missing and not any(waiting.values()):
        names = {device.device_id: device.name for device in ledger.devices()}
        who = ", ".join(f"{names.get(each, each)} ({count} jobs)" for each, count in missing.items())
        raise OrchestrateError(f"run {run}: what is left waits for devices that are not in the cluster: {who}")
    attempts = {row.job_id: row.attempt for row in rows}
    return Work(run, matrix, jobs, waiting, attempts, sum(row.state == "done" for row in rows))


def _keep_unplaced(run: str, matrix: Matrix, plan: Plan, root: Path) -> None:
    """A cell that no device may run is a row too."""
    store = Store(root)
    now = time.time()
    for cell, why in plan.unplaced:
        asked_for = cell.device or ""  # equal cells that name two devices are two rows
        job_id = job_id_of(run, cell.cell_id, asked_for, 0)
        report = Report(job_id, 1, run, asked_for, "", "", now, now, Refused(Cause.NO_DEVICE, why))
        keep_report(store, matrix, PlannedJob(cell, asked_for, 0), report, None)


def _why_nothing_runs(matrix: Matrix, plan: Plan, devices: list[Device]) -> str:
    lines = [f"{matrix.path}: no device can run any cell of this matrix:"]
    lines += [f"  {device.name}: {why}" for device in devices if (why := matrix.devices.why_not(device))]
    lines += [f"  {why}" for why in sorted({why for _, why in plan.unplaced})]
    return "\n".join(lines)


def _finish(run: str, root: Path, view: View, *, complete: bool) -> None:
    view.end(run, root / "runs" / run, summary_of(run, root), complete=complete)
