"""The coordinator as its callers have it (``api``): submit, watch, status, devices, pause, cancel, retry. No Ray here.

It lives on the head's node as long as the cluster does, or in the process of a ``submit`` that started its own. All
methods may be called from any thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from agents.contract.job import MachineState
from agents.device.inventory import boot_id
from agents.device_file import Stated
from agents.log import COORDINATOR, Entry, start_log_file, stop_log, suppressed
from orchestrator.dispatch.admit import admitted
from orchestrator.dispatch.api import DeviceView, JobStory, RunSnapshot, StatusView, Submission, Submitted, WatchAnswer
from orchestrator.dispatch.board import NoticeBoard
from orchestrator.dispatch.file_merger import FileMerger
from orchestrator.dispatch.fleet import Fleet
from orchestrator.dispatch.home import LOOP_BUSY_S, lock_home, make_home_private, open_ledger
from orchestrator.dispatch.job_story import with_log
from orchestrator.dispatch.ledger.backup import Backups
from orchestrator.dispatch.ledger.file import NAME
from orchestrator.dispatch.ledger.record import note_missing, note_state
from orchestrator.dispatch.ledger.watch import LedgerWatch
from orchestrator.dispatch.loop import CoordinatorLoop
from orchestrator.dispatch.loop_thread import LoopThread
from orchestrator.dispatch.lost_rows import LostRows, lost_rows, put_back_in_open_runs, put_back_unreadable
from orchestrator.dispatch.machine_log import LogFilter, LogPage, Places, read_log
from orchestrator.dispatch.messages import RunAdded, RunChanged, RunStatus
from orchestrator.dispatch.model_peers import ModelPeers, model_server, models_token
from orchestrator.dispatch.notices import RunEnded, RunStopping, TroubleReported
from orchestrator.dispatch.notify import Notifier, read_coordinator_file
from orchestrator.dispatch.operator_text import describe_requested_state, skip_event
from orchestrator.dispatch.runs import Run, device_named, pending_jobs
from orchestrator.dispatch.views import Views
from orchestrator.errors import OrchestrateError
from orchestrator.plan.model_needs import DeviceNeeds
from orchestrator.results.store import Store

NEEDS_S = 30.0
STATE_S = 150.0  # the agent looks at its machine anew, which may take START_S there
FIRST_DEVICES_S = 120.0
SHOWN = 8
T = TypeVar("T")

log = logging.getLogger(__name__)


class Coordinator:
    """``own_cluster``: the cluster lives for the runs of one command, which come by ``submit`` or ``resume`` alone.

    Raises OrchestrateError where another coordinator works on the same ledger.
    """

    def __init__(
        self,
        root: Path,
        make_fleet: Callable[[], Fleet],
        *,
        own_cluster: bool = False,
        on_failure: Callable[[BaseException], object] = type,
    ) -> None:
        self._root = root
        self._on_failure = on_failure
        self._own = own_cluster
        self._store = Store(root)
        self._merger = FileMerger(root)
        self._board = NoticeBoard()
        self._peers: ModelPeers | None = None
        # all or nothing: what was taken before the first thing that fails is given back, so that a later try can work
        with ExitStack() as taken:
            try:
                self._start(make_fleet, taken)
            except Exception as error:
                log.error(Entry("CoordinatorNotStarted", error=type(error).__name__, detail=str(error)))
                raise
            self._taken = taken.pop_all()

    def _start(self, make_fleet: Callable[[], Fleet], taken: ExitStack) -> None:
        """``taken``: how to give back what this takes, in the opposite order."""
        root = self._root
        # last of all: whoever gets it next opens the same ledger and the same log file
        taken.callback(lock_home(root).release)
        make_home_private(root)
        start_log_file(COORDINATOR, root)  # behind the lock: one process alone writes and rotates the file
        taken.callback(stop_log)
        log.info(Entry("CoordinatorStarted", version=self.version(), pid=os.getpid(), own_cluster=self._own))
        # behind the lock too: another coordinator's must not be migrated
        self._ledger = open_ledger(root, busy_s=LOOP_BUSY_S)
        taken.callback(self._ledger.close)
        taken.callback(self._merger.close)
        self._notifier = Notifier(read_coordinator_file(root).notify)
        server = None if self._own else model_server(root)
        if server is not None:
            taken.callback(server.close)
        with self._ledger.batch():  # raises where another program holds it
            pass
        # behind what most often fails (lock, ledger, settings, port): Ray takes seconds to start and to end
        self._fleet = make_fleet()
        taken.callback(self._fleet.close)
        if server is not None:
            # _ask_port uses self._loop, which is made below: it is called for devices alone, and those come by the loop
            url = f"http://{self._fleet.address}:{server.port}"
            self._peers = ModelPeers(models_token(root), self._ask_port, url)
        backups = Backups(root, in_background=not self._own)
        self._loop = CoordinatorLoop(
            self._fleet,
            self._ledger,
            self._store,
            self._board,
            long_lived=not self._own,
            notifier=self._notifier,
            peers=self._peers,
            merger=self._merger,
            on_run_end=backups.make,
        )
        thread = LoopThread(self._loop, self._board, self._on_failure)
        self._on_loop, self._raise_error = thread.call, thread.raise_error
        self._note_runs()
        self._views = Views(self._loop, self._ledger, self._board, self._notifier, backups)
        if not self._own:
            # on this thread, before the loop has one: no device can be greeted while its run is not open yet
            put_back_in_open_runs(self._ledger, self._store)
            self._loop.resume_runs()
            for run_id in self._loop.registry.runs:  # what an earlier coordinator, or an older version, did not merge
                self._merger.look_at(run_id)
        watch = LedgerWatch(root / NAME, self._ledger, self._loop.fail)
        watch.start()
        taken.callback(watch.close)
        thread.start()
        taken.callback(thread.close)

    def _note_runs(self) -> None:
        with suppressed(log, "RunsNotNoted", OrchestrateError):
            if lost := note_missing(self._ledger, self._root):
                self._loop.warnings["runs"] = (
                    f"the ledger knows nothing of {', '.join(lost[:SHOWN])}, which lie in runs/: it is older than they"
                    " are. Stop the coordinator, then: orchestrate repair"
                )
                log.warning(Entry("RunsNotInLedger", detail=self._loop.warnings["runs"]))

    def _ask_port(self, device_id: str, token: str) -> None:
        answer = self._fleet.call(device_id, "serve_models", token)

        def answered(future: Future[Any]) -> None:
            # a device without a model server is no failure: others then get models elsewhere
            if future.exception() is None and self._peers is not None:
                port, peers = int(future.result()), self._peers
                self._loop.call_soon(lambda: peers.server_started(device_id, port))

        answer.add_done_callback(answered)

    def where(self) -> tuple[str, str]:
        """Boot id of the coordinator's host and the folder of its results: whoever has both reads them itself."""
        return boot_id(Path("/")), str(self._root)

    def version(self) -> str:
        import importlib.metadata

        return importlib.metadata.version("orchestrate-bench")

    def wait_for_devices(self, timeout_s: float = FIRST_DEVICES_S) -> None:
        """Until every host that is there now has become a device, or said why not. Raises OrchestrateError for none."""
        self._wake_devices(timeout_s)
        if not self._loop.registry.addresses:
            why = "; ".join(self._loop.registry.troubles.values())
            raise OrchestrateError(f"no device is in the cluster{': ' + why if why else ''}")

    def _wake_devices(self, timeout_s: float = FIRST_DEVICES_S) -> None:
        """Before there is work, or a word for an agent: devices that sleep are there again, or the time is over."""
        self._on_loop(self._loop.wake_devices)
        deadline = time.monotonic() + timeout_s
        while not self._fleet.settled:
            self._raise_error()
            if time.monotonic() > deadline:
                # no error here: the devices that did come can work, and a caller that needs one looks for itself
                break
            self._board.wait(0.2)
        self._on_loop(lambda: None)  # the events so far have been handled

    def submit(self, submission: Submission) -> Submitted:
        """A new run. Raises UsageError where no device can run any of it, OrchestrateError for a full disk."""
        self.wait_for_devices()
        registry = self._loop.registry
        devices = self._on_loop(lambda: [registry.devices[key] for key in registry.addresses], changes=False)
        if submission.absent:
            here = {device.device_id for device in devices}
            # planned from the facts of their last visit; their jobs wait in the queue until they join
            devices += [device for device in self._ledger.devices() if device.device_id not in here]
        # on the caller's thread: to plan thousands of jobs takes seconds, in which the loop must go on renewing leases
        run, unplaced = admitted(submission, devices, self._ledger, self._store, self._root)
        row = self._ledger.run(run.run_id)
        added = RunAdded(run.run_id, row.priority, row.created_unix_s, pending_jobs(run))
        try:
            self._on_loop(lambda: self._begin(run, added), is_kept=True)
        except OrchestrateError as error:  # a second submit would measure it twice
            raise OrchestrateError(f"run {run.run_id} is kept, and begins when the coordinator can: {error}") from error
        return Submitted(run.run_id, unplaced)

    def _begin(self, run: Run, added: RunAdded) -> None:
        self._loop.registry.runs[run.run_id] = run
        self._loop.handle([added])

    def snapshot(self, run_id: str) -> RunSnapshot:
        """How a run stands, and from which number on its notices are to be watched."""
        return self._on_loop(lambda: self._views.snapshot(run_id), changes=False)

    def watch(self, run_id: str, after: int, wait_s: float) -> WatchAnswer:
        """The notices of the run after number ``after``; waits up to ``wait_s`` for one."""
        self._raise_error()
        run = self._loop.registry.runs.get(run_id)
        devices = run.device_ids if run else ()
        # on the caller's thread: waiting on the loop's would stop the very events that are waited for
        news = self._board.notices_after(run_id, after, wait_s, devices)
        self._raise_error()
        over = any(isinstance(each, RunEnded) for each in news.notices)
        quiet = not over and news.next == after
        # not by its notice alone: the coordinator may have been restarted between the run's end and that
        if quiet and run is None:
            return WatchAnswer(news, is_over=True, is_stuck=False)
        # asked only when nothing is new: the answer costs a turn of the loop, which each notice would pay else
        stuck = quiet and self._own and self._on_loop(lambda: self._is_stuck(run_id), changes=False)
        return WatchAnswer(news, over, stuck)

    def _is_stuck(self, run_id: str) -> bool:
        """In a cluster of its own nobody can come and help: all that can be done without an operator is done."""
        loop = self._loop
        nothing = not loop.schedule.is_busy and not loop.schedule.absent_devices and bool(loop.registry.addresses)
        return nothing and run_id in loop.registry.runs

    def table(self, run_id: str, table: str = "trials") -> Any:
        """One of the result tables of a run as ``pyarrow.Table``, for a host that does not have the files."""
        return self._store.load(run_id, table)

    def runs(self) -> list[str]:
        """Names, the newest first."""
        return [row.id for row in self._ledger.runs()]

    def status(self) -> StatusView:
        return self._on_loop(self._views.status, changes=False)

    def devices(self) -> list[DeviceView]:
        return self._on_loop(self._views.devices, changes=False)

    def set_run(self, run_id: str, status: RunStatus, priority: int | None = None) -> None:
        """Pause, cancel, go on, or another priority. A run that is complete stays as it is."""
        if status is RunStatus.RUNNING:
            self._wake_devices()
        self._on_loop(lambda: self._set_run(run_id, status, priority))

    def _set_run(self, run_id: str, status: RunStatus, priority: int | None) -> None:
        row = self._ledger.run(run_id)
        if row.remaining == 0:
            raise OrchestrateError(f"run {run_id}: all its jobs are done")
        # the ledger first: resume_run reads status and priority from it
        self._ledger.set_run(run_id, status, priority)
        self._note(run_id)
        if run_id not in self._loop.registry.runs:
            self._loop.resume_run(run_id)
            return
        if status is not RunStatus.RUNNING:
            self._board.post(run_id, RunEnded(complete=False, text=status.value))
        self._loop.handle([RunChanged(run_id, status, priority)])

    def resume(self, run_id: str) -> None:
        """The run goes on, if it does not already; done jobs whose rows cannot be read are pending again.

        Raises UsageError, in a cluster of its own, where it cannot.
        """
        self.wait_for_devices()
        # read on the caller's thread: it may take seconds, in which the loop must go on
        lost = lost_rows(self._ledger, Store(self._root), run_id)
        if lost.unreadable or lost.damaged:
            self._on_loop(lambda: self._put_back(run_id, lost))
        row = self._ledger.run(run_id)
        if self._own:
            # nobody can add a device to a command's own cluster: without one of these it would wait for ever
            waits = {job.device_id for job in self._ledger.jobs(run_id) if job.state != "done"}
            if not waits & set(self._loop.registry.addresses):
                names = {each.device_id: each.name for each in self._ledger.devices()}
                who = ", ".join(names.get(each, each) for each in sorted(waits))
                raise OrchestrateError(f"run {run_id}: what is left waits for devices that are not here: {who}")
        if row.remaining:
            self.set_run(run_id, RunStatus.RUNNING)

    def _put_back(self, run_id: str, lost: LostRows) -> None:
        text = put_back_unreadable(self._ledger, self._store, run_id, lost)
        if run_id in self._loop.registry.runs and lost.unreadable:
            attempts = {row.job_id: row.attempt for row in self._ledger.jobs(run_id)}
            self._send_again(run_id, {job_id: attempts[job_id] for job_id in lost.unreadable})
        self._board.post(run_id, TroubleReported(text))

    def stop(self, run_id: str) -> None:
        """For the command that owns the cluster: what runs is cancelled, and the run is paused."""
        # before the loop is asked, which may be busy: the person who pressed Ctrl-C sees at once that it was taken
        self._board.post(run_id, RunStopping())
        with suppressed(log, "RunNotStopped", OrchestrateError, run=run_id):  # its command ends all the same
            self._on_loop(lambda: self._stop(run_id), is_kept=True)

    def _stop(self, run_id: str) -> None:
        self._ledger.set_run(run_id, RunStatus.PAUSED)
        self._note(run_id)
        # to the schedule cancelled, though paused in the ledger: what runs is to end now, and a resume goes on with it
        self._loop.handle([RunChanged(run_id, RunStatus.CANCELLED)])

    def _note(self, run_id: str, retried: Mapping[str, int] | None = None) -> None:
        """In the run's folder too, of which a damaged ledger is made anew."""
        with suppressed(log, "RunStateNotNoted", OrchestrateError, run=run_id):
            note_state(self._ledger, self._root, run_id, retried)

    def idle(self) -> bool:
        return self._on_loop(lambda: not self._loop.schedule.is_busy, changes=False)

    def retry(self, run_id: str, causes: list[str]) -> int:
        """Jobs that failed with one of ``causes`` run again; how many."""
        self._wake_devices()
        return self._on_loop(lambda: self._retry(run_id, causes))

    def _retry(self, run_id: str, causes: list[str]) -> int:
        with self._ledger.batch():  # both or none: else jobs would be put back, and nobody sent them
            again = self._ledger.requeue(run_id, causes)
            if again:
                self._ledger.set_run(run_id, RunStatus.RUNNING)
        if again:
            self._note(run_id, again)
            if run_id in self._loop.registry.runs:
                self._send_again(run_id, again)
            else:
                self._loop.resume_run(run_id)
        return len(again)

    def _send_again(self, run_id: str, attempts: Mapping[str, int]) -> None:
        """Done jobs of an open run, with the attempt numbers that are used."""
        row, run = self._ledger.run(run_id), self._loop.registry.runs[run_id]
        jobs = [replace(each, attempt=attempts[each.job_id]) for each in pending_jobs(run) if each.job_id in attempts]
        added = RunAdded(run_id, row.priority, row.created_unix_s, jobs)
        # RunAdded alone changes no status of a known run: a paused one would stay paused
        self._loop.handle([added, RunChanged(run_id, RunStatus.RUNNING)])

    def needs(self, run_id: str) -> dict[str, DeviceNeeds]:
        """Model files that devices lack for a run; a device that does not answer in time is left out."""
        run = self._loop.registry.runs.get(run_id)
        if run is None:
            return {}
        loads: dict[str, dict[Any, None]] = {}
        for job in run.jobs.values():
            loads.setdefault(job.device_id, {}).setdefault(job.cell.load)
        # all are asked before the first answer is waited for: one limit of time for the whole fleet
        asked = {
            device_id: self._fleet.call(device_id, "needs", list(wanted))
            for device_id, wanted in loads.items()
            if device_id in self._loop.registry.addresses
        }
        found = {}
        deadline = time.monotonic() + NEEDS_S
        for device_id, future in asked.items():
            try:
                free_bytes, needs = future.result(timeout=max(deadline - time.monotonic(), 0.0))
            except (OrchestrateError, FutureTimeout):
                continue
            found[device_id] = DeviceNeeds(self._loop.registry.name_of(device_id).name, free_bytes, needs)
        return found

    def state(self, name: str, stated: Stated) -> str:
        """The operator's word on a device's state; what its operator is asked for all the same, "" for nothing.

        Raises UsageError for an unknown device, OrchestrateError else.
        """
        device_id = self._on_loop(lambda: self._device_named(name, live=True), changes=False)
        self._wake_devices()
        try:
            # on the caller's thread: the agent may take minutes, in which the loop must go on
            device = self._fleet.call(device_id, "state", stated).result(timeout=STATE_S)
        except FutureTimeout:
            raise OrchestrateError(f"device {name}: does not answer within {STATE_S:g} s") from None
        self._on_loop(lambda: self._loop.on_device_changed(device))
        ask = self._on_loop(lambda: self._loop.schedule.asks().get(device_id), changes=False)
        return describe_requested_state(ask, device) if ask is not None else ""

    def skip(self, name: str, state: MachineState) -> int:
        """What ``state`` asks for cannot be had on a device, or (an empty state) nobody waits for it any more: its jobs
        there become rows that say so; how many."""
        return self._on_loop(lambda: self._skip(name, state))

    def _skip(self, name: str, state: MachineState) -> int:
        device_id = self._device_named(name, live=False)
        # counted by the ledger, before and after: which jobs want this state is for the schedule to decide
        before = self._jobs_remaining()
        self._loop.handle([skip_event(device_id, name, state)])
        return before - self._jobs_remaining()

    def _jobs_remaining(self) -> int:
        return sum(row.remaining for row in self._ledger.runs())

    def _device_named(self, name: str, *, live: bool) -> str:
        devices = {each.device_id: each for each in self._ledger.devices()} | self._loop.registry.devices
        device_id = device_named(name, devices, self._loop.registry.addresses)
        if live and device_id not in self._loop.registry.addresses:
            raise OrchestrateError(f"device {name}: is not there now")
        return device_id

    def log(self, wanted: LogFilter, most_lines: int | None, after: Places | None) -> LogPage:
        """The log files of the coordinator's host: the last lines, or what came after an earlier page."""
        return read_log(self._root, wanted, most_lines, after)

    def why(self, run_id: str, job: str) -> JobStory:
        """What became of a job, given by its id or its beginning. Raises UsageError for one that is not there."""
        story = self._on_loop(lambda: self._views.story(run_id, job, self._store), changes=False)
        return with_log(story, self._root)

    def close(self) -> None:
        """Ends the loop; what is done stays done, and the ledger knows what is not."""
        self._taken.close()
