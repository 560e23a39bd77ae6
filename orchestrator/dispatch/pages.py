"""What the coordinator tells of runs and devices: plain data that crosses the network. PURE"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agents.contract.device import Device
from orchestrator.dispatch.board import News
from orchestrator.dispatch.ledger import RunRow
from orchestrator.dispatch.messages import RunStatus
from orchestrator.dispatch.notices import JobSent


@dataclass(frozen=True, slots=True)
class Opening:
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
class WatchNews:
    """``over``: the run is done, paused or cancelled. ``stuck``: nothing can go on without an operator."""

    news: News
    over: bool
    stuck: bool


@dataclass(frozen=True, slots=True)
class RunView:
    """``busy``: names of the devices that work on it now; ``asks``: what operators must do for it."""

    row: RunRow
    busy: tuple[str, ...]
    asks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StatusPage:
    """``cannot``: for each thing asked, the command that says that it cannot be done."""

    runs: tuple[RunView, ...]
    troubles: tuple[str, ...]
    cannot: tuple[str, ...]
    devices: int


@dataclass(frozen=True, slots=True)
class DeviceView:
    """``doing``: free, busy, waits for its operator, away; or refused and why (``device`` is None then)."""

    device: Device | None
    doing: str
    address: str | None
    seen_unix_s: float
