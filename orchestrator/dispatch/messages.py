"""Events that the schedule takes (past tense) and commands that it answers with (imperative). PURE"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from agents.contract.device import Blocked, Device
from agents.contract.job import MachineState
from agents.contract.report import Attempt, Cause, Report
from orchestrator.plan.changes import Change


class RunStatus(StrEnum):
    """What a run is meant to do."""

    RUNNING = "running"
    PAUSED = "paused"  # nothing more is sent; what runs ends
    CANCELLED = "cancelled"  # what runs is ended too


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A job that is not done. ``attempt``: the latest that was sent, 0 for none; its report still counts if it comes.

    ``failures``: how often it failed. ``failure_counted``: the latest attempt is among them. ``hangs``: how often its
    job process hung.
    """

    job_id: str
    device_id: str
    state: MachineState
    attempt: int = 0
    failures: int = 0
    failure_counted: bool = False
    cell_id: str = ""
    hangs: int = 0


@dataclass(frozen=True, slots=True)
class RunAdded:
    """A run, new or from the ledger, with its jobs in the order of the plan; or more jobs of a known one.

    ``reports`` of its jobs that devices hold already.
    """

    run_id: str
    priority: int
    created_unix_s: float
    jobs: Sequence[PendingJob]
    status: RunStatus = RunStatus.RUNNING
    reports: tuple[Report, ...] = ()


@dataclass(frozen=True, slots=True)
class RunChanged:
    run_id: str
    status: RunStatus
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceJoined:
    """A device is there, new or back, in the state that ``device`` says, with all the reports that it holds."""

    device: Device
    running: Attempt | None = None
    reports: tuple[Report, ...] = ()
    blocked: Blocked | None = None


@dataclass(frozen=True, slots=True)
class BlockChanged:
    """A device that is there takes no jobs for now, or (None) takes them again."""

    device_id: str
    blocked: Blocked | None


@dataclass(frozen=True, slots=True)
class DeviceLost:
    """``undelivered``: the attempt that it was to run and never got: that is no failure of the job."""

    device_id: str
    detail: str
    undelivered: Attempt | None = None


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    report: Report


@dataclass(frozen=True, slots=True)
class StateRefused:
    """A state cannot be set: by the agent (then the operator is asked), or by the operator (its jobs are given up)."""

    device_id: str
    state: MachineState
    why: str
    by_agent: bool = False


@dataclass(frozen=True, slots=True)
class DeviceSkipped:
    """Nobody waits for the device any more: its pending jobs are given up, those of ``run_id``, or (None) of all runs.

    What it runs now, and what it runs by itself until it is back, still counts.
    """

    device_id: str
    why: str
    run_id: str | None = None


Event = RunAdded | RunChanged | DeviceJoined | BlockChanged | DeviceLost | AttemptEnded | StateRefused | DeviceSkipped


@dataclass(frozen=True, slots=True)
class Send:
    run_id: str
    job_id: str
    attempt: int
    device_id: str


@dataclass(frozen=True, slots=True)
class Keep:
    """Store this report as the one result of its job."""

    report: Report


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed for a reason that says nothing of its cell: the job is pending again."""

    run_id: str
    job_id: str
    attempt: int
    failures: int
    cause: Cause
    detail: str
    report: Report | None = None  # None: the device was lost


@dataclass(frozen=True, slots=True)
class PutBack:
    """The attempt was cancelled, or its device's disk takes no writes: the job is pending again, and no failure is
    counted."""

    report: Report


@dataclass(frozen=True, slots=True)
class Discard:
    """Drop this report: it is not of the current attempt of its job."""

    report: Report


@dataclass(frozen=True, slots=True)
class SetAside:
    """Leave this report on its device, unless the ledger has the job as done: it is of no run that is open here."""

    report: Report


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the job without a report of its device: a row says why."""

    run_id: str
    job_id: str
    attempt: int
    device_id: str
    cause: Cause
    detail: str


@dataclass(frozen=True, slots=True)
class Cancel:
    device_id: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Have the device free its memory of engine and model: nothing is to be done there for now."""

    device_id: str


@dataclass(frozen=True, slots=True)
class SetSplit:
    """Have the agent set the split (the size of the carve-out) and reboot the device."""

    device_id: str
    dedicated_vram_bytes: int
    run_id: str


@dataclass(frozen=True, slots=True)
class AskOperator:
    """Ask the operator to bring the device into ``state``; ``note``: what came of it so far.

    OPERATOR_REBOOT to no state: only a reboot ends what ``note`` says.
    """

    device_id: str
    run_id: str
    state: MachineState
    change: Change
    note: str = ""


@dataclass(frozen=True, slots=True)
class WithdrawAsk:
    """Nothing is asked of this device's operator any more: it is done, or needed no longer."""

    device_id: str


@dataclass(frozen=True, slots=True)
class CompleteRun:
    run_id: str


Command = (
    Send
    | Keep
    | Retry
    | PutBack
    | Discard
    | SetAside
    | GiveUp
    | Cancel
    | Unload
    | SetSplit
    | AskOperator
    | WithdrawAsk
    | CompleteRun
)
