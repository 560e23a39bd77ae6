"""A home in which no coordinator works: what its runs wait for on this machine, and what its operator states there.

A submit with a cluster of its own ends where its operator must act. The steps that it prints work here without it.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from agents.contract.device import Device, MemoryKind, StateSource
from agents.contract.job import MachineState
from agents.device.inventory import boot_id, device_id_of
from agents.device_file import Stated, keep_stated, read_device_file, read_stated
from agents.places import device_root
from orchestrator.dispatch.board import NoticeBoard
from orchestrator.dispatch.inline_fleet import InlineFleet
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.loop import CoordinatorLoop
from orchestrator.dispatch.messages import AskOperator, DeviceJoined, PendingJob, RunAdded, RunStatus
from orchestrator.dispatch.operator_text import skip_event
from orchestrator.dispatch.runs import device_named, run_of_ledger
from orchestrator.dispatch.schedule import Schedule
from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.results.store import Store


class OfflineHome:
    """Used while no coordinator can begin there (``no_coordinator_runs``)."""

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self._root = root
        self._ledger = ledger
        self._folder = device_root(root)

    def this_device(self) -> Device | None:
        """This machine as the ledger has it; None where it was never examined for this home."""
        if not (self._folder / "device-id").exists():
            return None
        own = device_id_of(self._folder)
        return next((each for each in self._ledger.devices() if each.device_id == own), None)

    def ask(self) -> tuple[AskOperator, Device] | None:
        """What this machine's operator must do before a run goes on; None where ``resume`` has something to send, and
        after a reboot, of which only ``resume`` can tell what came of it."""
        device = self.this_device()
        if device is None or device.boot_id != boot_id(Path("/")):
            return None
        schedule = Schedule()
        for row in self._ledger.runs():
            if row.remaining and row.status is RunStatus.RUNNING:
                with suppress(OrchestrateError):  # made by another version: it cannot go on here at all
                    jobs = self._pending(row.id, device.device_id)
                    schedule.handle(RunAdded(row.id, row.priority, row.created_unix_s, jobs))
        schedule.handle(DeviceJoined(device))
        ask = schedule.asks().get(device.device_id)
        return (ask, device) if ask else None

    def _pending(self, run_id: str, device_id: str) -> list[PendingJob]:
        planned = run_of_ledger(self._ledger, run_id).jobs
        rows = [row for row in self._ledger.jobs(run_id) if row.state != "done" and row.device_id == device_id]
        return [PendingJob(row.job_id, device_id, planned[row.job_id].needed_state) for row in rows]

    def state(self, name: str, stated: Stated) -> None:
        """Notes the operator's statement, on the device and in the ledger. Raises OrchestrateError, UsageError."""
        device = self._named(name)
        try:
            keep_stated(self._folder, stated)
            now = read_stated(self._folder, read_device_file(self._folder))
        except OSError as error:
            raise OrchestrateError(f"{self._folder}: cannot be written: {error.strerror or error}") from error
        except ValueError as error:
            raise UsageError(str(error)) from error
        self._ledger.record_devices([_as_stated(replace(device, boot_id=boot_id(Path("/"))), now)])

    def skip(self, name: str, state: MachineState) -> int:
        """As ``Coordinator.skip``."""
        device_id = self._named(name, is_this=False).device_id
        with closing(InlineFleet(self._folder)) as fleet:  # never listened to: it begins nothing
            loop = CoordinatorLoop(fleet, self._ledger, Store(self._root), NoticeBoard())
            loop.resume_runs()
            before = self._remaining()
            loop.handle([skip_event(device_id, name, state)])
            return before - self._remaining()

    def _remaining(self) -> int:
        return sum(row.remaining for row in self._ledger.runs())

    def _named(self, name: str, *, is_this: bool = True) -> Device:
        devices = {each.device_id: each for each in self._ledger.devices()}
        this = self.this_device()
        device = devices[device_named(name, devices, [this.device_id] if this else [])]
        if is_this and device != this:
            raise OrchestrateError(
                f"device {name}: is not this machine, and no cluster runs here. On that machine: orchestrate state"
                f" {name} ...; or start the cluster: orchestrate head"
            )
        return device


def _as_stated(device: Device, now: Stated) -> Device:
    """``device`` as its next examination finds it; what is seen on the machine itself counts more."""
    if device.split_source is not StateSource.SEEN:
        split = now.dedicated_vram_bytes
        kind = MemoryKind.CARVE_OUT if device.memory_kind is MemoryKind.NONE and split is not None else None
        source = None if split is None else StateSource.STATED
        device = replace(
            device, dedicated_vram_bytes=split, split_source=source, memory_kind=kind or device.memory_kind
        )
    if device.power_source is not StateSource.SEEN:
        limit_w = now.power_limit_w
        device = replace(device, power_limit_w=limit_w, power_source=None if limit_w is None else StateSource.STATED)
    return device
