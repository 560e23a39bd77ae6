"""Events and commands of the schedule in short words, so that a table of them can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agents.contract.device import Device, MemoryKind
from agents.contract.job import MachineState
from agents.contract.report import Attempt, Cause, Failed, Outcome, Refused, Report
from orchestrator.dispatch.messages import (
    AskOperator,
    AttemptEnded,
    Cancel,
    Command,
    CompleteRun,
    DeviceJoined,
    DeviceLost,
    Discard,
    GiveUp,
    Keep,
    PendingJob,
    PutBack,
    Retry,
    RunAdded,
    RunChanged,
    RunStatus,
    Send,
    SetAside,
    SetSplit,
    StateRefused,
    Unload,
    WithdrawAsk,
)
from tests.unit.results.made_attempts import DEVICE, MEASURED
from tests.unit.results.made_attempts import job as job_of
from tests.unit.results.made_attempts import report as report_of

GIB = 2**30
ENGINE_LOST = Failed(Cause.ENGINE_LOST, "gone")
LEASE_ENDED = Failed(Cause.DEVICE_LOST, "the coordinator was not heard")
CRASHED = Failed(Cause.ENGINE_CRASHED, "signal 11")
CANCELLED = Failed(Cause.CANCELLED, "asked to")
REFUSED = Refused(Cause.UNSUPPORTED, "no vulkan")


def machine(
    device_id: str = "a",
    gib: float | None = 1,
    *,
    boot: int = 1,
    sets: bool = False,
    watts: float | None = None,
    holds_power: bool = False,
    options: Sequence[int] = (),
    kind: MemoryKind = MemoryKind.CARVE_OUT,
) -> Device:
    """A device with so many GiB of dedicated VRAM (None: it cannot be seen)."""
    return replace(
        DEVICE,
        device_id=device_id,
        name=f"name of {device_id}",
        boot_id=f"boot-{boot}",
        memory_kind=kind,
        dedicated_vram_bytes=None if gib is None else round(gib * GIB),
        sets_split=sets,
        power_limit_w=watts,
        power_methods=("ryzenadj",) if holds_power else (),
        carveout_options_bytes=tuple(each * GIB for each in options),
    )


def state(gib: float | None = None, watts: float | None = None) -> MachineState:
    return MachineState(None if gib is None else round(gib * GIB), watts)


def jobs(device_id: str, *job_ids: str, gib: float | None = None, watts: float | None = None) -> list[PendingJob]:
    return [PendingJob(job_id, device_id, state(gib, watts)) for job_id in job_ids]


def added(
    run_id: str,
    *groups: Sequence[PendingJob],
    priority: int = 0,
    age: float = 0.0,
    status: RunStatus = RunStatus.RUNNING,
) -> RunAdded:
    """``age``: how long ago it was created."""
    return RunAdded(run_id, priority, 1000.0 - age, [each for group in groups for each in group], status)


def joined(device: Device, running: Attempt | None = None, reports: tuple[Report, ...] = ()) -> DeviceJoined:
    return DeviceJoined(device, running, reports)


def lost(device_id: str = "a") -> DeviceLost:
    return DeviceLost(device_id, "silent")


def report(job_id: str, attempt: int = 1, device_id: str = "a", outcome: Outcome = MEASURED) -> Report:
    return replace(report_of(job_of(job_id), outcome), attempt=attempt, device_id=device_id)


def ended(job_id: str, attempt: int = 1, device_id: str = "a", outcome: Outcome = MEASURED) -> AttemptEnded:
    return AttemptEnded(report(job_id, attempt, device_id, outcome))


def paused(run_id: str) -> RunChanged:
    return RunChanged(run_id, RunStatus.PAUSED)


def cancelled(run_id: str) -> RunChanged:
    return RunChanged(run_id, RunStatus.CANCELLED)


def goes_on(run_id: str, priority: int | None = None) -> RunChanged:
    return RunChanged(run_id, RunStatus.RUNNING, priority)


def skipped(device_id: str = "a", gib: float | None = None, watts: float | None = None) -> StateRefused:
    return StateRefused(device_id, state(gib, watts), "the operator says so")


def agent_cannot(device_id: str = "a", gib: float = 32) -> StateRefused:
    return StateRefused(device_id, state(gib), "no right to", by_agent=True)


def words(commands: Sequence[Command]) -> list[str]:
    return [_word(command) for command in commands]


def _state(wanted: MachineState) -> str:
    split, watts = wanted.dedicated_vram_bytes, wanted.power_limit_w
    parts = ([] if split is None else [f"{split / GIB:g} GiB"]) + ([] if watts is None else [f"{watts:g} W"])
    return " ".join(parts) or "as it stands"


def _name(report: Report) -> str:
    return f"{report.job_id}.{report.attempt}"


def _word(command: Command) -> str:  # noqa: PLR0911, PLR0912  one branch a command
    match command:
        case Send(_, job_id, attempt, device_id):
            return f"send {job_id}.{attempt} to {device_id}"
        case Keep(report):
            return f"keep {_name(report)}"
        case Retry(_, job_id, attempt, failures, cause):
            return f"{job_id}.{attempt} failed, {failures}: {cause}"
        case PutBack(report):
            return f"put back {_name(report)}"
        case Discard(report):
            return f"discard {_name(report)}"
        case SetAside(report):
            return f"unknown {_name(report)}"
        case GiveUp(_, job_id, attempt, _, cause):
            return f"give up {job_id}.{attempt}: {cause}"
        case Cancel(device_id):
            return f"cancel {device_id}"
        case Unload(device_id):
            return f"rest {device_id}"
        case SetSplit(device_id, size, run_id):
            return f"set {device_id} to {size / GIB:g} GiB for {run_id}"
        case AskOperator(device_id, run_id, wanted, change, note):
            return f"ask {device_id}: {_state(wanted)} for {run_id} ({change}{', ' if note else ''}{note})"
        case WithdrawAsk(device_id):
            return f"answered {device_id}"
        case CompleteRun(run_id):
            return f"completed {run_id}"
