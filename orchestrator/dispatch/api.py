"""What can be asked of a coordinator, and what it answers: plain data that crosses the network. PURE

The coordinator is in this process, or an actor on the head; callers see no difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agents.contract.device import Device
from agents.contract.job import MachineState
from agents.device_file import Stated
from orchestrator.dispatch.board import NoticeBatch
from orchestrator.dispatch.ledger.ledger import RunRow
from orchestrator.dispatch.machine_log import LogFilter, LogPage, Places
from orchestrator.dispatch.messages import RunStatus
from orchestrator.dispatch.notices import JobSent
from orchestrator.plan.model_needs import DeviceNeeds


@dataclass(frozen=True, slots=True)
class Submission:
    """``confirmed``: more than 100,000 jobs are meant. ``absent``: also for devices that are known and not there."""

    matrix_json: str
    confirmed: bool = False
    priority: int = 0
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Submitted:
    """``unplaced``: why, for each cell that fits no device."""

    run: str
    unplaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """A run as it stands. ``devices``: (id, name) of those with jobs that are not done; ``waiting`` counts these.

    ``present``: ids of all devices in the cluster. ``after``: what to hand to the first ``watch``.
    """

    run: str
    name: str
    question: str
    devices: tuple[tuple[str, str], ...]
    present: frozenset[str]
    total: int
    done: int
    failed: int
    waiting: Mapping[str, int]
    running: tuple[JobSent, ...] = ()
    asks: tuple[str, ...] = ()
    status: RunStatus = RunStatus.RUNNING
    trouble: str = ""
    after: int = 0
    unplaced: tuple[str, ...] = ()  # why, for each cell that fits no device


@dataclass(frozen=True, slots=True)
class WatchAnswer:
    """``is_over``: the run is done, paused or cancelled. ``is_stuck``: nothing can go on without an operator."""

    batch: NoticeBatch
    is_over: bool
    is_stuck: bool


@dataclass(frozen=True, slots=True)
class RunView:
    """``busy``: names of the devices that work on it now; ``asks``: what operators must do for it."""

    row: RunRow
    busy: tuple[str, ...]
    asks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AbsentDevice:
    """A device that is not there, for which ``jobs`` jobs of running runs wait."""

    device: str
    jobs: int
    seen_unix_s: float


@dataclass(frozen=True, slots=True)
class StatusView:
    """``skip_commands``: for each thing asked of an operator, the command for where it cannot be done."""

    runs: tuple[RunView, ...]
    troubles: tuple[str, ...]
    skip_commands: tuple[str, ...]
    devices: int
    absent: tuple[AbsentDevice, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceView:
    """``status``: free, busy, waits for its operator, waits for its disk, needs a reboot, away; or refused and why
    (``device`` is None then)."""

    device: Device | None
    status: str
    address: str | None
    seen_unix_s: float


@dataclass(frozen=True, slots=True)
class JobStory:
    """``now``: how the job stands, and every reason why it is not done. ``log``: lines of the log that name it."""

    run: str
    job_id: str
    cell: str
    device: str
    now: tuple[str, ...]
    attempts: tuple[str, ...]
    log: tuple[str, ...] = ()


class CoordinatorApi(Protocol):
    """All calls raise OrchestrateError, or UsageError for bad arguments. ``Coordinator`` says what each does."""

    def version(self) -> str: ...
    def where(self) -> tuple[str, str]: ...
    def idle(self) -> bool: ...
    def submit(self, submission: Submission) -> Submitted: ...
    def snapshot(self, run_id: str) -> RunSnapshot: ...
    def watch(self, run_id: str, after: int, wait_s: float) -> WatchAnswer: ...
    def table(self, run_id: str, table: str = "trials") -> Any: ...
    def runs(self) -> list[str]: ...
    def status(self) -> StatusView: ...
    def devices(self) -> list[DeviceView]: ...
    def set_run(self, run_id: str, status: RunStatus, priority: int | None = None) -> None: ...
    def resume(self, run_id: str) -> None: ...
    def retry(self, run_id: str, causes: list[str]) -> int: ...
    def needs(self, run_id: str) -> dict[str, DeviceNeeds]: ...
    def state(self, name: str, stated: Stated) -> str: ...
    def skip(self, name: str, state: MachineState) -> int: ...
    def log(self, wanted: LogFilter, most_lines: int | None, after: Places | None) -> LogPage: ...
    def why(self, run_id: str, job: str) -> JobStory: ...
