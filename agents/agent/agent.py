"""The agent of one device: starts the job process, hands it jobs, collects its reports. A plain class, no Ray.

Threads: calls come in on Ray's; of each job process one reads its lines, and one watches that it does not hang and that
its job has a lease. All change state under the one lock ``_changed``, and a wait releases it: so each wait looks again
at what it waited for, and ``start`` checks once more that no other call was faster.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agents.agent.blocked import DeviceBlock, why_unwritable
from agents.agent.calls import AgentStatus, Grant, Hello
from agents.agent.hang_detector import Abandon, HangDetector, HangLimits, Kill
from agents.agent.job_process import JobProcess
from agents.agent.lease import Lease
from agents.agent.split import describe_error, set_split
from agents.agent.spool import Spool
from agents.contract.device import Device
from agents.contract.job import Job, LoadSettings
from agents.contract.model_need import ModelNeed
from agents.contract.report import DISK_CAUSES, Attempt, Cause, Failed, Report
from agents.contract.stages import ENDING, MEASURING, SHORT_S, STARTING
from agents.contract.wire_json import from_json, to_json
from agents.device.inventory import boot_id
from agents.device_file import Stated, keep_stated, read_device_file
from agents.errors import Unsupported
from agents.files import make_private
from agents.log import Entry, hide, suppressed
from agents.models.lan.server import ModelServer
from agents.models.needs import free_bytes, needs
from agents.places import MODELS_PORT_VARIABLE, data_root, device_root

IDLE_S = 30.0
log = logging.getLogger(__name__)

START_S = 120.0  # imports on a cold disk, and the drivers of a GPU waking up


class JobProcessFailed(Exception):
    """The job process does not come up; the text says why."""


class AgentClosed(JobProcessFailed):
    """This agent was ended by its coordinator, and takes no more work; another one can be made."""


class Agent:
    """All calls are short but ``poll``, which waits up to its ``wait_s``. Safe to call from several threads."""

    def __init__(
        self,
        folder: Path | None = None,
        now: Callable[[], float] = time.time,
        start_s: float = START_S,
        monotonic: Callable[[], float] = time.monotonic,
        idle_s: float = IDLE_S,
        hang_limits: HangLimits = HangLimits(),  # noqa: B008  frozen
        make_process: Callable[[Path], JobProcess] = JobProcess,
        why_unwritable: Callable[[Path], str] = why_unwritable,
    ) -> None:
        """``folder``: where this device keeps its things; by default as ``agents.places`` says *on this machine*.

        ``start_s``: how long the job process may take to report what this machine is; ``idle_s``: how long it stays,
        with the model that it has loaded, where no call gives it a job or unloads it.
        """
        self._folder = folder or device_root(data_root())
        if folder is None:
            with suppress(OSError):  # what needs the folder says why it cannot be made
                data_root().mkdir(mode=0o700, parents=True, exist_ok=True)
            make_private(data_root(), self._folder, *self._folder.glob("*.log*"))
        self._now = now
        self._spool = Spool(self._folder / "spool")
        self._changed = threading.Condition()
        self._process: JobProcess | None = None
        self._device: Device | None = None
        self._job: Job | None = None
        self._started: Attempt | None = None  # the latest
        self._stage = "idle"
        self._live: dict[str, Any] | None = None
        self._reports: dict[Attempt, Report] = {}
        self._closing = False
        self._start_s = start_s
        self._idle_s = idle_s
        self._idle_timer: threading.Timer | None = None
        self._error: str | None = None
        self._lease = Lease(monotonic)
        self._monotonic = monotonic
        self._hang_limits = hang_limits
        self._hangs = HangDetector(hang_limits, monotonic())  # of the job process
        self._make_process = make_process
        self._end_as: Failed | None = None  # what the job comes to whose process is being ended
        self._job_began_s = 0.0
        self._live_requested = False
        self._block = DeviceBlock(self._folder, boot_id(Path("/")), why_unwritable)
        self._models: ModelServer | None = None

    def hello(self, term: int = 0) -> Hello:
        """This machine, what it runs, and every report on its disk. Starts the job process if there is none.

        Raises JobProcessFailed; Fenced where a newer coordinator has spoken.
        """
        with self._changed:
            self._lease.renew(term)
            device = self._block.stuck_device() or self._ensure_job_process()
            running = self._job and (self._job.job_id, self._job.attempt)
            # The job process spools a report before it sends it: that of the running job may lie on the disk already,
            # and is left to ``_on_message``, which also ends the job here.
            for report in self._spool.reports():
                if (report.job_id, report.attempt) != running:
                    self._reports.setdefault((report.job_id, report.attempt), report)
            # A coordinator that only looks at its devices sends no ``unload``.
            if self._job is None:
                self._unload_when_idle()
            return Hello(device, self._status())

    def device(self) -> Device:
        """This machine; starts the job process if there is none. Raises JobProcessFailed."""
        return self.hello().device

    def start(self, job: Job, grant: Grant | None = None, *acknowledged: Attempt) -> AgentStatus:
        """Hands ``job`` to the job process; one that is running, or whose report waits here, is not started again.

        ``acknowledged``: reports that need not be kept any more.

        Where no job process can be had since the device is blocked, the report is cancelled: the job was not tried.
        Raises JobProcessFailed, also where another job runs; Fenced where a newer coordinator has spoken.
        """
        grant = grant or Grant()
        self.acknowledge(*acknowledged)
        try:
            return self._start(job, grant)
        except JobProcessFailed as error:
            return self._put_back(job, error)

    def _start(self, job: Job, grant: Grant) -> AgentStatus:
        with self._changed:
            self._lease.renew(grant.term)
            # A call that is repeated, since its answer was lost, must not run the job twice; its report may be
            # acknowledged by then.
            if (job.job_id, job.attempt) in (*self._reports, self._started) or self._is_running(job):
                return self._status()
            # This may take START_S, and releases the lock while it waits: a newer coordinator may have called, and
            # another thread may have started the job. So both are checked once more.
            self._ensure_job_process()
            self._lease.renew(grant.term)
            if self._is_running(job):
                return self._status()
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            self._job, self._stage, self._live, self._live_requested = job, STARTING, None, False
            self._job_began_s = self._monotonic()
            self._started = (job.job_id, job.attempt)
            self._lease.begin(grant.lease_s)
            self._hangs.begin_stage(STARTING, SHORT_S, self._job_began_s)
            log.info(Entry("JobStarted", job, term=grant.term, lease_s=grant.lease_s))
            self._changed.notify_all()  # the watch: there is a lease now
            peers = to_json(grant.peers) if grant.peers else b"null"
            self._send(b'{"run": ' + to_json(job) + b', "peers": ' + peers + b"}")
            return self._status()

    def _is_running(self, job: Job) -> bool:
        if self._job is None:
            return False
        if (self._job.job_id, self._job.attempt) == (job.job_id, job.attempt):
            return True
        raise JobProcessFailed(f"busy with {self._job.job_id}")

    def _put_back(self, job: Job, error: JobProcessFailed) -> AgentStatus:
        """Raises ``error`` where the device is not blocked: then it is a failure of the device."""
        why = self._block.disk_trouble()  # without the lock: a disk may take its time
        with self._changed:
            self._block.by_disk(why)
            blocked = self._block.now
            if self._job is not None or self._closing or blocked is None:
                raise error
            failed = Failed(Cause.CANCELLED, f"not tried: {blocked.why}")
            self._reports[job.job_id, job.attempt] = self._report_of_lost(job, failed, duration_s=0.0)
            return self._status()

    def poll(self, wait_s: float = 0.0, term: int = 0) -> AgentStatus:
        """Returns at once if there are reports, when the stage changes, and after ``wait_s`` with a live view."""
        with self._changed:
            self._lease.renew(term)
            if not self._reports and self._job is not None:
                before = self._stage
                # The answer is a line like any other, and arrives during the wait: a poll that does not wait returns
                # the view that the poll before has requested.
                # One at a time: a job process that hangs reads none of them.
                if not self._live_requested:
                    self._live_requested = True
                    self._send(b'{"live": true}')
                if not self._is_measuring():  # while tokens arrive nothing is written
                    log.debug(Entry("LeaseRenewed", self._job, term=term))
                self._changed.wait_for(lambda: self._reports or self._stage not in (before, ENDING), timeout=wait_s)
            # The wait has released the lock: a coordinator that was replaced meanwhile is refused here.
            self._lease.renew(term)
            return self._status()

    def ping(self) -> str:
        """The boot id. Short whatever the agent is at."""
        return boot_id(Path("/"))

    def _status(self) -> AgentStatus:
        live = self._live or {}
        return AgentStatus(
            job=(self._job.job_id, self._job.attempt) if self._job else None,
            stage=self._stage,
            reads=int(live.get("reads", 0)),
            reads_per_s=live.get("reads_per_s"),
            reports=tuple(self._reports.values()),
            blocked=self._block.now,
        )

    def recheck(self, term: int = 0) -> AgentStatus:
        """Looks once more whether the disk takes writes, where the device is blocked for that. Raises Fenced."""
        with self._changed:
            self._lease.renew(term)
            is_due = self._block.now is not None and not self._block.now.needs_reboot
        why = self._block.disk_trouble() if is_due else ""
        with self._changed:
            if is_due:
                self._block.rechecked(why)
            return self._status()

    def acknowledge(self, *attempts: Attempt) -> None:
        """The coordinator has stored these reports, or knows better ones: they need not be kept here."""
        # First the disk: a ``hello`` in between reads it, and would bring back a report that was just set aside.
        for job_id, attempt in attempts:
            self._spool.drop(job_id, attempt)
        self.set_aside(*attempts)

    def set_aside(self, *attempts: Attempt) -> None:
        """Reports that are another coordinator's to collect: they stay on the disk and are not sent again."""
        with self._changed:
            for each in attempts:
                self._reports.pop(each, None)

    def cancel(self) -> None:
        """Ends the running job; its report says cancelled."""
        with self._changed:
            log.info(Entry("CancelRequested", self._job))
            self._send(b'{"cancel": true}')
            self._hangs.cancel(self._monotonic())
            self._changed.notify_all()  # the watch: it has less time now

    def unload(self) -> None:
        """Nothing more to do for now: the engine and its model leave the memory. A running job is not disturbed."""
        with self._changed:
            if self._job is None and self._process is not None:
                log.info(Entry("Unload"))
                self._close_job_process()

    def state(self, stated: Stated) -> Device:
        """Notes what the operator states of the machine, where nothing here can observe it; the device as it is then.

        Raises JobProcessFailed, also while a job runs, and OSError.
        """
        with self._changed:
            if self._job is not None:
                raise JobProcessFailed(f"busy with {self._job.job_id}")
            log.info(Entry("StateStated", stated))
            keep_stated(self._folder, stated)
            # Only a job process that starts examines the machine, and reads what was stated.
            self._close_job_process()
            return self._ensure_job_process()

    def set_split(self, wanted_bytes: int) -> None:
        """Has the firmware give this much to the GPU, and reboots. Raises JobProcessFailed with the reason."""
        with self._changed:
            if self._job is not None:
                raise JobProcessFailed(f"busy with {self._job.job_id}")
            log.info(Entry("SetSplit", dedicated_vram_bytes=wanted_bytes))
            try:
                set_split(read_device_file(self._folder).allow, wanted_bytes)
            except Unsupported as error:
                raise JobProcessFailed(error.detail) from error
            except (ValueError, OSError, subprocess.SubprocessError) as error:
                raise JobProcessFailed(f"cannot set the split and reboot: {describe_error(error)}") from error

    def needs(self, loads: Sequence[LoadSettings]) -> tuple[int, tuple[ModelNeed, ...]]:
        """Free bytes of this device's model store, and what is missing there for ``loads``."""
        store = self._folder / "models"
        return free_bytes(store), needs(loads, store)

    def serve_models(self, token: str) -> int:
        """Begins to serve this device's model files to others that know ``token``; the port. Raises OSError."""
        hide(token)
        with self._changed:
            if self._models is None:
                store, port = self._folder / "models", int(os.environ.get(MODELS_PORT_VARIABLE, "0"))
                try:
                    self._models = ModelServer(store, token, self._is_measuring, port=port)
                except OSError:  # another agent of this machine has the port
                    self._models = ModelServer(store, token, self._is_measuring)
            return self._models.port

    def _is_measuring(self) -> bool:
        """A benchmark is being timed: nothing else may use this machine."""
        # The threads of the model server call this without the lock: an answer that is late costs one block of a file.
        return self._job is not None and self._stage.startswith(MEASURING)

    def close(self) -> None:
        """Ends the job process and with it the engine."""
        with self._changed:
            self._closing = True
            log.info(Entry("AgentClosed", self._job))
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            process, models, self._models = self._process, self._models, None
            self._changed.notify_all()
        # Without the lock: a job process may wait until its lines are read, and the thread that reads them needs the
        # lock.
        if models is not None:
            models.close()
        if process is None:
            return
        process.close()
        if not process.ended_within(self._hang_limits.close_s):
            process.kill()
            if stuck := process.remaining(self._hang_limits.kill_s):
                with self._changed:
                    self._block.until_reboot(stuck, self._hang_limits.kill_s)

    def _close_job_process(self) -> None:
        """Ends the job process; the next one waits for that, so that it sees the machine anew."""
        if self._process is not None:
            self._process.close()
            self._hangs.close(self._monotonic())
            self._changed.notify_all()  # the watch: it kills what does not end

    def _watch(self, process: JobProcess) -> None:
        """Ends ``process`` where it hangs, and its job where no call renews its lease: a later attempt may have been
        sent by then. Gives up what SIGKILL does not end."""
        with self._changed:
            while self._process is process and not self._closing:
                now_s = self._monotonic()
                match self._hangs.look(now_s):
                    case Kill(stage, why):
                        self._kill(process, Failed(Cause.ENGINE_LOST, why, hung_stage=stage))
                    case Abandon():
                        # Empty: it has ended, and only its lines have not, which another process still holds.
                        if stuck := process.remaining(0.0):
                            self._block.until_reboot(stuck, self._hang_limits.kill_s)
                        self._forget_process("the job process hung")
                        return
                wait_s = self._hangs.wait_s(now_s)
                if self._job is not None and not self._hangs.is_ending:
                    remaining_s = self._lease.remaining_s()
                    if remaining_s <= 0:
                        self._end_expired_job()
                        continue
                    wait_s = min(wait_s, remaining_s)
                self._changed.wait(wait_s)

    def _end_expired_job(self) -> None:
        """The job process has time to restore a power limit; the report will say why."""
        log.warning(Entry("LeaseExpired", self._job, lease_s=self._lease.length_s))
        words = f"the coordinator was not heard for {self._lease.length_s:g} s: the job was ended"
        self._end_as = Failed(Cause.DEVICE_LOST, words)
        self._close_job_process()

    def _kill(self, process: JobProcess, failed: Failed) -> None:
        log.error(Entry("JobProcessHung", self._job, pid=process.pid, detail=failed.detail))
        # A process that was being ended has a job with its own reason, which is no hang of its cell.
        self._end_as = self._end_as or failed
        process.kill()
        self._hangs.kill(self._monotonic())
        self._changed.notify_all()

    def _ensure_job_process(self) -> Device:
        """The device, as reported by the job process, which is started if need be. Raises JobProcessFailed."""
        process = self._process
        if process is not None and self._hangs.is_ending:  # the watch sees to it that it ends, or gives it up
            self._changed.wait_for(lambda: self._process is not process or self._closing)
        if self._closing:
            raise AgentClosed("this agent has been closed")
        if self._block.now is not None and self._block.now.needs_reboot:
            raise JobProcessFailed(f"this device needs a reboot: {self._block.now.why}")
        if self._process is None:
            # Else the wait below would take those of the process before for an answer of the new one.
            self._error = self._device = None
            self._start_job_process()
        process = self._process
        assert process is not None
        # Another process than ours: ours has ended during the wait, and perhaps another call has started the next one.
        settled = self._changed.wait_for(
            lambda: self._process is not process or self._device is not None, timeout=self._start_s
        )
        if not settled:
            words = f"the job process did not start within {self._start_s:g} s; see {process.log}"
            self._kill(process, Failed(Cause.ENGINE_LOST, words))
            raise JobProcessFailed(words)
        if self._process is not process or self._device is None:
            raise JobProcessFailed(self._error or f"the job process did not start; see {process.log}")
        return self._device

    def _start_job_process(self) -> None:
        try:
            self._process = self._make_process(self._folder)
            log.info(Entry("JobProcessStarted", pid=self._process.pid))
        except OSError as error:
            raise JobProcessFailed(f"the job process cannot be started: {error}") from error
        self._hangs, self._end_as = HangDetector(self._hang_limits, self._monotonic()), None
        threading.Thread(target=self._read_messages, args=(self._process,), name="lines", daemon=True).start()
        threading.Thread(target=self._watch, args=(self._process,), name="watch", daemon=True).start()

    def _send(self, line: bytes) -> None:
        if self._process is not None:
            self._process.send(line)

    def _read_messages(self, process: JobProcess) -> None:
        for line in process.lines():
            message = _parsed(line)
            # Without the lock: a disk that fails may take its time.
            why = self._block.disk_trouble() if _is_of_disk(message) else ""
            with self._changed:
                if self._process is not process:  # given up since: its job has a report already
                    return
                self._block.by_disk(why)
                # What a library prints may be JSON as well. This thread must not end by it: nobody else reads a report.
                with suppressed(log, "LineUnreadable", ValueError, TypeError, KeyError, AttributeError):
                    self._on_message(message)
                self._changed.notify_all()
        # Without the lock: its stdout has ended, it may still take a moment, and no call shall wait for that.
        code = process.wait()
        stuck = process.remaining(self._hang_limits.kill_s)
        with self._changed:
            if self._process is not process:
                return
            level = logging.WARNING if self._job is not None or code != 0 else logging.INFO
            log.log(level, Entry("JobProcessEnded", self._job, pid=process.pid, exit_code=code))
            if stuck and not self._closing:
                self._block.until_reboot(stuck, self._hang_limits.kill_s)
            # What the process itself has reported explains more than its exit code.
            words = self._error or f"the job process ended with exit code {code}"
            self._error = self._error or process.describe_exit(code)
            self._forget_process(words)

    def _forget_process(self, words: str) -> None:
        """The job process has ended, or was given up; its job comes to ``_end_as``, else to ``words``."""
        self._process = None
        if self._job is not None and not self._closing:
            key = (self._job.job_id, self._job.attempt)
            # It may have died after it had spooled the report and before it had sent it: then that report counts.
            report = self._spool.get(*key)
            if report is None:
                failed = self._end_as or Failed(Cause.ENGINE_LOST, words)
                report = self._report_of_lost(self._job, failed, self._monotonic() - self._job_began_s)
                with suppressed(log, "ReportNotKept", OSError):  # the memory has it too
                    self._spool.put(report)
            self._reports[key] = report
        self._job, self._stage, self._live, self._end_as = None, "idle", None, None
        self._changed.notify_all()

    def _on_message(self, message: dict[str, Any]) -> None:
        if "log" in message:
            level, text = message["log"]
            log.log(level, text)
        elif "phase" in message:
            self._stage, self._live = message["phase"], None
            if self._job is not None:
                limit_s, now_s = float(message["limit_s"]), self._monotonic()
                self._hangs.begin_stage(self._stage, limit_s, now_s, answers_cancel=self._stage == ENDING)
            if not self._is_measuring():  # while tokens arrive nothing is written
                log.debug(Entry("PhaseChanged", self._job, phase=self._stage))
        elif "live" in message:
            self._live, self._live_requested = message["live"], False
        elif "error" in message:
            self._error = message["error"]
            log.error(Entry("JobProcessFailed", detail=self._error))
        elif "device" in message:
            self._device = self._block.last_device = from_json(Device, json.dumps(message["device"]))
            log.info(Entry("DeviceExamined", self._device, boot_id=self._device.boot_id))
        elif "report" in message:
            report = from_json(Report, json.dumps(message["report"]))
            self._reports[report.job_id, report.attempt] = report
            log.info(Entry("AttemptEnded", report))
            self._job, self._stage = None, "idle"
            self._hangs.end_job()
            self._unload_when_idle()

    def _unload_when_idle(self) -> None:
        """A coordinator that was replaced between two jobs sends no ``unload``: the memory is freed all the same."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        # One that fires in spite of its cancel does no harm: ``unload`` leaves a running job alone.
        self._idle_timer = threading.Timer(self._idle_s, self.unload)
        self._idle_timer.daemon = True
        self._idle_timer.start()

    def _report_of_lost(self, job: Job, failed: Failed, duration_s: float) -> Report:
        device = self._device or self._block.last_device or job.device_id
        key = (job.job_id, job.attempt)
        return Report.unmeasured(key, job.run_id, failed, self._now(), device, duration_s)


def _parsed(line: bytes) -> dict[str, Any]:
    """Empty for what somebody's library printed, and for the half line of a process that was killed."""
    with suppressed(log, "LineUnreadable", ValueError):
        message = json.loads(line)
        if isinstance(message, dict):
            return message
    return {}


def _is_of_disk(message: dict[str, Any]) -> bool:
    """A report that could not be spooled, or of a job that failed for the disk."""
    try:
        return "report" in message and (
            not message.get("kept", True) or message["report"]["outcome"].get("cause") in DISK_CAUSES
        )
    except (KeyError, TypeError, AttributeError):  # no report of ours
        return False
