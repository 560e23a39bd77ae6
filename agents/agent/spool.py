"""Reports on the device's disk until the coordinator has stored them: a result outlives every process."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError

from agents.contract.report import Report
from agents.contract.wire_json import from_json, to_json
from agents.files import write_atomic
from agents.log import Entry

log = logging.getLogger(__name__)


class Spool:
    """One JSON file an attempt."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, job_id: str, attempt: int) -> Path:
        return self._folder / f"{job_id}-{attempt}.json"

    def put(self, report: Report) -> None:
        """Raises OSError; then no half file stays."""
        write_atomic(self._path(report.job_id, report.attempt), to_json(report))

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
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as error:
        log.warning(Entry("ReportUnreadable", file=path.name, error=type(error).__name__))
        return None
