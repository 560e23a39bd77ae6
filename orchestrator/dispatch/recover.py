"""What an earlier coordinator did not live to write down: results in the store or on a device's disk."""

from __future__ import annotations

from collections.abc import Mapping

from agents.contract.report import RETRIED, Cause
from orchestrator.dispatch.campaign import MAX_ATTEMPTS
from orchestrator.dispatch.fleet import Fleet
from orchestrator.dispatch.ledger import Ledger
from orchestrator.dispatch.loop import cause_of, keep_report, record_done
from orchestrator.matrix import Matrix
from orchestrator.plan.jobs import PlannedJob
from orchestrator.results.store import Store


def recover(
    run: str, matrix: Matrix, jobs: Mapping[str, PlannedJob], ledger: Ledger, store: Store, fleet: Fleet
) -> None:
    """Afterwards every job whose result exists anywhere is done in the ledger, and every other one waits."""
    rows = {row.job_id: row for row in ledger.jobs(run) if row.state != "done"}
    devices = {device.device_id: device for device in fleet.devices()}
    for report in fleet.uncollected(run):
        row = rows.get(report.job_id)
        if row is not None and row.attempt == report.attempt and _is_result(cause_of(report), report.attempt):
            keep_report(store, matrix, jobs[report.job_id], report, devices.get(report.device_id))
            record_done(ledger, report)
            del rows[report.job_id]
        fleet.collected(report)
    stored = _stored(run, store) if rows else {}
    for row in rows.values():
        cause, seconds = stored.get((row.job_id, row.attempt), (Cause.CANCELLED, 0.0))
        if _is_result(cause, row.attempt):  # it reached the disk; the word that it did, did not
            ledger.done(row.job_id, row.attempt, cause, seconds)
        elif row.state == "sent":
            ledger.put_back(row.job_id)


def _is_result(cause: Cause | None, attempt: int) -> bool:
    if cause is Cause.CANCELLED:
        return False
    return cause not in RETRIED or attempt >= MAX_ATTEMPTS


def _stored(run: str, store: Store) -> dict[tuple[str, int], tuple[Cause | None, float]]:
    """Cause and seconds of each attempt in the store, by (job_id, attempt)."""
    if run not in store.runs():
        return {}
    columns = ("job_id", "attempt", "cause", "started_at", "ended_at")
    found: dict[tuple[str, int], tuple[Cause | None, float]] = {}
    for row in store.read(run, columns=columns).table.select(columns).to_pylist():
        key = (row["job_id"], row["attempt"])
        seconds = (row["ended_at"] - row["started_at"]).total_seconds()
        before, _ = found.get(key, (None, 0.0))
        found[key] = (Cause(row["cause"]) if row["cause"] is not None else before, seconds)
    return found
