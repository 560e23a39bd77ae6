"""What a watcher is told, in the order in which it happens: small, so that it can cross the network. PURE"""

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
    """``reads_per_s``: live rate of the stream, None when nothing streams."""

    device: DeviceName
    job_id: str | None
    phase: str
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
    """New, or back."""

    device: DeviceName
    words: str


@dataclass(frozen=True, slots=True)
class DeviceDisappeared:
    device: DeviceName
    detail: str


@dataclass(frozen=True, slots=True)
class OperatorAsked:
    """An operator must do something before this device can go on."""

    device: DeviceName
    words: str


@dataclass(frozen=True, slots=True)
class AskWithdrawn:
    device: DeviceName


@dataclass(frozen=True, slots=True)
class TroubleReported:
    """The coordinator, or a node, cannot go on for now; empty ``words``: it can again."""

    words: str


@dataclass(frozen=True, slots=True)
class RunStopping:
    """Somebody asked for the end; what runs is being cancelled."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last job of the run is done, or it was paused or cancelled: ``words`` says which."""

    complete: bool
    words: str = ""


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


def ended(report: Report, job: JobName, device: DeviceName, *, final: bool) -> JobEnded:
    outcome = report.outcome
    figures = None
    cause, detail = None, ""
    if isinstance(outcome, Failed | Refused):
        cause, detail = outcome.cause, outcome.detail
    elif isinstance(outcome, Measured) and outcome.trials:
        trial = outcome.trials[-1]
        # llama.cpp tells a rate for the one token that a prompt of one leaves to compute: it says nothing
        prompt = prompt_tps(trial) if trial.engine.prompt_tokens != 1 else None
        flags = tuple(map(str, trial.flags))
        image = seconds_per_image(trial), iteration_rate(trial)
        figures = Figures(ttft_s(trial), decode_tps(trial), prompt, flags, *image)
    seconds = report.ended_unix_s - report.started_unix_s
    return JobEnded(job, device, report.attempt, final, outcome.kind, cause, detail, figures, seconds)
