"""Carries out the schedule's commands on devices, watchers and operators. What must be durable is written before."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from agents.agent.calls import Grant
from agents.contract.job import MachineState
from agents.contract.report import Report
from agents.log import Entry, suppressed
from agents.units import format_size
from orchestrator.dispatch.board import NoticeBoard
from orchestrator.dispatch.file_merger import FileMerger
from orchestrator.dispatch.fleet import DeviceGone, Fleet
from orchestrator.dispatch.ledger.file import LedgerBusy
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.messages import (
    AskOperator,
    Cancel,
    Command,
    CompleteRun,
    Discard,
    Event,
    GiveUp,
    Keep,
    PutBack,
    Retry,
    Send,
    SetAside,
    SetSplit,
    StateRefused,
    Unload,
    WithdrawAsk,
)
from orchestrator.dispatch.model_peers import ModelPeers
from orchestrator.dispatch.notices import AskWithdrawn, DeviceAppeared, JobSent, OperatorAsked, RunEnded, job_ended
from orchestrator.dispatch.notify import Notifier
from orchestrator.dispatch.operator_text import describe_ask
from orchestrator.dispatch.persist import report_to_keep
from orchestrator.dispatch.runs import Registry
from orchestrator.errors import OrchestrateError
from orchestrator.results.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dependencies:
    """What commands are carried out with."""

    fleet: Fleet
    ledger: Ledger
    store: Store
    board: NoticeBoard
    notifier: Notifier | None = None
    peers: ModelPeers | None = None
    merger: FileMerger | None = None
    lease_s: float = 90.0
    on_run_end: Callable[[], object] = lambda: None


class Effects:
    """Used on the loop's thread. ``on_event`` hands an event to the loop, from any thread."""

    def __init__(
        self, dependencies: Dependencies, registry: Registry, term: int, on_event: Callable[[Event], object]
    ) -> None:
        self._dependencies = dependencies
        self._registry = registry
        self._term = term
        self._on_event = on_event

    def perform(self, command: Command) -> None:
        match command:
            case Send() | Cancel() | Unload() | SetSplit() | AskOperator():
                self._perform_on_device(command)
            case Keep(report):
                self._post_ended(report, final=True)
                self._acknowledge(report)
                self._attempt_kept(report)
                if self._dependencies.peers is not None:
                    self._dependencies.peers.job_ended(report)
            case GiveUp():
                if (made := report_to_keep(command, self._registry.devices)) is not None:
                    self._post_ended(made, final=True)
                    self._attempt_kept(made)
            case Retry():
                self._retry(command)
            case PutBack(report) | Discard(report):
                self._acknowledge(report)
            case SetAside(report):
                self._set_aside(report)
            case WithdrawAsk(device_id):
                for run_id in self._registry.runs:
                    self._dependencies.board.post(run_id, AskWithdrawn(self._registry.name_of(device_id)))
            case CompleteRun(run_id):
                self._complete(run_id)

    def _perform_on_device(self, command: Send | Cancel | Unload | SetSplit | AskOperator) -> None:
        match command:
            case Send():
                self._send(command)
            case Cancel(device_id):
                self._dependencies.fleet.cancel(device_id)
            case Unload(device_id):
                self._dependencies.fleet.call(device_id, "unload")
            case SetSplit():
                self._set_split(command)
            case AskOperator():
                self._ask(command)

    def _send(self, command: Send) -> None:
        run, device_id = self._registry.runs[command.run_id], command.device_id
        job = run.job(command.job_id, command.attempt)
        peers = self._dependencies.peers.for_job(device_id, job) if self._dependencies.peers is not None else None
        self._dependencies.fleet.send(device_id, job, Grant(self._term, self._dependencies.lease_s, peers))
        self._dependencies.board.post(
            command.run_id, JobSent(run.name_of(command.job_id), self._registry.name_of(device_id), command.attempt)
        )

    def _acknowledge(self, report: Report) -> None:
        self._dependencies.fleet.acknowledge(report.device_id, (report.job_id, report.attempt))

    def _attempt_kept(self, report: Report) -> None:
        if self._dependencies.merger is not None:
            self._dependencies.merger.attempt_kept(report.run_id)

    def _post_ended(self, report: Report, *, final: bool) -> None:
        run = self._registry.runs[report.run_id]
        device = self._registry.name_of(report.device_id)
        self._dependencies.board.post(report.run_id, job_ended(report, run.name_of(report.job_id), device, final=final))

    def _retry(self, command: Retry) -> None:
        report = command.report
        if report is None:
            return  # the device was lost: watchers have been sent that
        if report.log:
            # it is not worth stopping for
            with suppressed(log, "EngineLogNotKept", OrchestrateError, run=report.run_id):
                self._dependencies.store.keep_log(report)
        self._post_ended(report, final=False)
        self._acknowledge(report)

    def _set_aside(self, report: Report) -> None:
        """Not needed where the job is done. A report of a closed run, or of another ledger, stays on its device."""
        state = None
        with suppressed(log, "JobNotLookedUp", LedgerBusy, run=report.run_id):  # then its device keeps it
            state = self._dependencies.ledger.job_state(report.job_id)
        key = (report.job_id, report.attempt)
        if state is not None and (state[0] == "done" or state[1] > report.attempt):
            self._dependencies.fleet.acknowledge(report.device_id, key)
        else:
            self._registry.unclaimed[key] = report
            self._dependencies.fleet.set_aside(report.device_id, key)

    def _set_split(self, command: SetSplit) -> None:
        name = self._registry.name_of(command.device_id)
        size = format_size(command.dedicated_vram_bytes)
        notice = DeviceAppeared(name, f"is set to {size} of dedicated VRAM and reboots")
        self._dependencies.board.post(command.run_id, notice)
        answer = self._dependencies.fleet.call(command.device_id, "set_split", command.dedicated_vram_bytes)

        def failed(future: Future[Any]) -> None:
            error = future.exception()
            if error is not None and not isinstance(error, DeviceGone):
                log.warning(Entry("SplitNotSet", command, detail=str(error)))
                state = MachineState(dedicated_vram_bytes=command.dedicated_vram_bytes)
                why = f"the agent could not set it: {error}"
                self._on_event(StateRefused(command.device_id, state, why, by_agent=True))

        answer.add_done_callback(failed)

    def _ask(self, command: AskOperator) -> None:
        device = self._registry.devices[command.device_id]
        words = describe_ask(command, device)
        self._dependencies.board.post(command.run_id, OperatorAsked(self._registry.name_of(command.device_id), words))
        if self._dependencies.notifier is not None:
            self._dependencies.notifier.notify(command, device, words)

    def _complete(self, run_id: str) -> None:
        self._registry.runs.pop(run_id)
        self._dependencies.on_run_end()
        if self._dependencies.merger is not None:
            self._dependencies.merger.look_at(run_id, has_ended=True)
        self._dependencies.board.post(run_id, RunEnded(complete=True))
