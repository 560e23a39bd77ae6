"""Reports as an agent makes them."""

from __future__ import annotations

from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import Outcome, Report


def report_of(job: Job, outcome: Outcome, device: Device) -> Report:
    """As an agent on ``device`` makes it; the job took two seconds."""
    return Report(
        job_id=job.job_id,
        attempt=job.attempt,
        run_id=job.run_id,
        device_id=device.device_id,
        fingerprint=device.fingerprint,
        boot_id=device.boot_id,
        started_unix_s=1_700_000_000.0,
        ended_unix_s=1_700_000_002.0,
        outcome=outcome,
    )
