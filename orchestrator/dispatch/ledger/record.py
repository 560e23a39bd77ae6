"""What a run's folder holds beside its rows, so that a ledger can be made of it: ``repair``.

::

    ROOT/runs/RUN/run.json      as it was submitted: matrix, jobs in their order, facts of their devices
                  state.json    what became of it since: status, priority, jobs that `orchestrate retry` put back

Both are for their owner alone: a matrix may hold addresses of models with passwords.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.contract.device import Device
from agents.contract.wire_json import from_json, to_json
from agents.files import write_atomic
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.messages import RunStatus
from orchestrator.errors import OrchestrateError
from orchestrator.plan.jobs import job_id_of

RECORD, STATE = "run.json", "state.json"
VERSION = 1

JobKey = tuple[str, str, int]
"""Cell, device, repeat."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """``status`` as it was when the record was made; ``RunState`` has the later one."""

    run_id: str
    name: str
    created_unix_s: float
    priority: int
    matrix_json: str
    jobs: Sequence[JobKey]
    devices: Sequence[Device]
    status: RunStatus = RunStatus.RUNNING

    def job_rows(self) -> list[tuple[str, str, str, int]]:
        """As ``Ledger.add`` takes them."""
        return [
            (job_id_of(self.run_id, cell, device, repeat), cell, device, repeat) for cell, device, repeat in self.jobs
        ]


@dataclass(frozen=True, slots=True)
class RunState:
    """``retried``: jobs that were put back on request, each with the attempt number that it had then."""

    status: RunStatus
    priority: int
    retried: Mapping[str, int] = field(default_factory=dict)


def recorded_runs(root: Path) -> list[str]:
    """Runs of whose folder a ledger's entry can be made, sorted."""
    return sorted(path.parent.name for path in (root / "runs").glob(f"*/{RECORD}"))


def record_of(ledger: Ledger, run_id: str) -> RunRecord:
    """Raises OrchestrateError."""
    row, jobs = ledger.run(run_id), ledger.jobs(run_id)
    used = {job.device_id for job in jobs}
    return RunRecord(
        run_id=run_id,
        name=row.name,
        created_unix_s=row.created_unix_s,
        priority=row.priority,
        matrix_json=ledger.matrix(run_id),
        jobs=[(job.cell_id, job.device_id, job.repeat) for job in jobs],
        devices=[device for device in ledger.devices() if device.device_id in used],
        status=row.status,
    )


def write_record(root: Path, record: RunRecord) -> None:
    """Raises OrchestrateError where the disk takes no more."""
    cells, devices = _numbers(cell for cell, _, _ in record.jobs), _numbers(device for _, device, _ in record.jobs)
    content = {
        "version": VERSION,
        "name": record.name,
        "created_unix_s": record.created_unix_s,
        "priority": record.priority,
        "status": record.status.value,
        "matrix": record.matrix_json,
        "cells": list(cells),
        "devices": list(devices),
        "jobs": [[cells[cell], devices[device], repeat] for cell, device, repeat in record.jobs],
        "facts": [json.loads(to_json(device)) for device in record.devices],
    }
    _write(root / "runs" / record.run_id / RECORD, content)


def _numbers(names: Any) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def read_record(root: Path, run_id: str) -> RunRecord:
    """Raises OrchestrateError for one that is damaged, or of a newer version."""
    path = root / "runs" / run_id / RECORD
    try:
        found = _read(path)
        cells, devices = found["cells"], found["devices"]
        return RunRecord(
            run_id=run_id,
            name=found["name"],
            created_unix_s=float(found["created_unix_s"]),
            priority=int(found["priority"]),
            matrix_json=found["matrix"],
            jobs=[(cells[cell], devices[device], repeat) for cell, device, repeat in found["jobs"]],
            devices=_facts(found["facts"]),
            status=RunStatus(found["status"]),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise OrchestrateError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error


def _facts(found: Sequence[Any]) -> list[Device]:
    devices = []
    for facts in found:
        with suppress(ValueError):  # of another version: its jobs are known all the same
            devices.append(from_json(Device, json.dumps(facts)))
    return devices


def write_state(root: Path, run_id: str, state: RunState) -> None:
    """Raises OrchestrateError where the disk takes no more."""
    content = {"status": state.status.value, "priority": state.priority, "retried": dict(state.retried)}
    _write(root / "runs" / run_id / STATE, {"version": VERSION, **content})


def read_state(root: Path, run_id: str) -> RunState | None:
    """None where nothing has changed since it was submitted, or the file cannot be read."""
    try:
        found = _read(root / "runs" / run_id / STATE)
        retried = {str(job): int(attempt) for job, attempt in found["retried"].items()}
        return RunState(RunStatus(found["status"]), int(found["priority"]), retried)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def note_state(ledger: Ledger, root: Path, run_id: str, retried: Mapping[str, int] | None = None) -> None:
    """As the ledger has the run now, and ``retried`` beside earlier ones. Raises OrchestrateError."""
    if not (root / "runs" / run_id).is_dir():  # somebody removed its results: it is not brought back
        return
    row, before = ledger.run(run_id), read_state(root, run_id)
    known = dict(before.retried) if before else {}
    write_state(root, run_id, RunState(row.status, row.priority, known | dict(retried or {})))


def note_missing(ledger: Ledger, root: Path) -> list[str]:
    """Records for runs that an older version submitted. Returns runs that have one and are not in the ledger."""
    recorded, known = set(recorded_runs(root)), [row.id for row in ledger.runs()]
    for run_id in known:
        if run_id not in recorded and (root / "runs" / run_id).is_dir():
            write_record(root, record_of(ledger, run_id))
    return sorted(recorded - set(known))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    try:
        write_atomic(path, json.dumps(content, separators=(",", ":")), mode=0o600)
    except OSError as error:
        raise OrchestrateError(f"{path}: cannot be written: {error.strerror or error}") from error


def _read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text("utf-8"))
    if not isinstance(found, dict) or found["version"] > VERSION:
        raise ValueError("it was written by a newer version of orchestrate, or is no record of a run")
    return found
