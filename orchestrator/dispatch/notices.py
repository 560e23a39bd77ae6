"""Notices: what those who watch a run are sent. Small, so that they can cross the network. PURE

The names of the events that ``--json`` prints are an interface of their own (``orchestrator/cli/view.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.contract.rates import decode_tps, iteration_rate, prompt_tps, seconds_per_image, ttft_s
from agents.contract.report import Cause, Failed, Measured, Refused, Report


@dataclass(frozen=True, slots=True)
class JobName:
    """A job as people and scripts know it; ``repeat`` counts from 0."""

    job_id: str
    cell_id: str
    cell: str
    repeat: int


@dataclass(frozen=True, slots=True)
class DeviceName:
    device_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the measured trial. Rates in tokens/s, times in s; None where there is no such figure."""

    ttft_s: float | None
    decode_tps: float | None
    prompt_tps: float | None
    flags: tuple[str, ...]
    seconds_per_image: float | None = None
    iterations_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class JobSent:
    job: JobName
    device: DeviceName
    attempt: int


@dataclass(frozen=True, slots=True)
class JobProgress:
    """``stage``: what the job is at. ``reads_per_s``: rate of the stream now, None when nothing streams."""

    device: DeviceName
    job_id: str | None
    stage: str
    reads_per_s: float | None


@dataclass(frozen=True, slots=True)
class JobEnded:
    """``final`` False: it will be tried again. ``cause`` None: measured, with ``figures``."""

    job: JobName
    device: DeviceName
    attempt: int
    final: bool
    status: str
    cause: Cause | None
    detail: str
    figures: Figures | None
    seconds: float


@dataclass(frozen=True, slots=True)
class DeviceAppeared:
    """A device is there, new or back (``text``); or it reboots by itself."""

    device: DeviceName
    text: str


@dataclass(frozen=True, slots=True)
class DeviceDisappeared:
    """A device answers no more, or its host has gone."""

    device: DeviceName
    detail: str


@dataclass(frozen=True, slots=True)
class OperatorAsked:
    """An operator must do something before this device can go on."""

    device: DeviceName
    text: str


@dataclass(frozen=True, slots=True)
class AskWithdrawn:
    """Nothing is asked for this device any more."""

    device: DeviceName


@dataclass(frozen=True, slots=True)
class TroubleReported:
    """What keeps the coordinator, or a node, from going on for now; an empty ``text``: nothing any more."""

    text: str


@dataclass(frozen=True, slots=True)
class RunStopping:
    """Somebody asked for the end; running jobs are being cancelled."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last job of the run is done, or it was paused or cancelled (``text``)."""

    complete: bool
    text: str = ""


Notice = (
    JobSent
    | JobProgress
    | JobEnded
    | DeviceAppeared
    | DeviceDisappeared
    | OperatorAsked
    | AskWithdrawn
    | TroubleReported
    | RunStopping
    | RunEnded
)


def job_ended(report: Report, job: JobName, device: DeviceName, *, final: bool) -> JobEnded:
    """The notice of a report, with the figures of its counted trial."""
    outcome = report.outcome
    figures = None
    cause, detail = None, ""
    if isinstance(outcome, Failed | Refused):
        cause, detail = outcome.cause, outcome.detail
    elif isinstance(outcome, Measured) and outcome.trials:
        trial = outcome.trials[-1]
        # of a prompt of one token llama.cpp reports a rate that means nothing
        prompt = prompt_tps(trial) if trial.engine.prompt_tokens != 1 else None
        flags = tuple(map(str, trial.flags))
        image = seconds_per_image(trial), iteration_rate(trial)
        figures = Figures(ttft_s(trial), decode_tps(trial), prompt, flags, *image)
    return JobEnded(job, device, report.attempt, final, outcome.kind, cause, detail, figures, report.elapsed_s)
