"""Reports on the device's disk until the coordinator has stored them: a result outlives every process."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from agents.contract.report import Report
from agents.contract.wire_json import from_json, to_json


class Spool:
    """One JSON file an attempt, written aside, fsynced, renamed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, job_id: str, attempt: int) -> Path:
        return self._folder / f"{job_id}-{attempt}.json"

    def put(self, report: Report) -> None:
        """Raises OSError; then no half file stays."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(report.job_id, report.attempt)
        aside = path.with_suffix(".tmp")
        try:
            with aside.open("wb") as file:
                file.write(to_json(report))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise

    def get(self, job_id: str, attempt: int) -> Report | None:
        """None where nothing lies here, or what another version wrote."""
        return _read(self._path(job_id, attempt))

    def reports(self) -> list[Report]:
        """All that lies here. A file that cannot be read is left alone: another version wrote it."""
        found = (_read(path) for path in sorted(self._folder.glob("*.json")))
        return [report for report in found if report is not None]

    def drop(self, job_id: str, attempt: int) -> None:
        self._path(job_id, attempt).unlink(missing_ok=True)


def _read(path: Path) -> Report | None:
    try:
        return from_json(Report, path.read_bytes())
    except (ValidationError, OSError):
        return None
