"""The agent of one device: starts the job process, hands it jobs, passes on what it says. A plain class, no Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import Cause, Failed, Report
from agents.contract.wire_json import from_json, to_json
from agents.places import data_root, device_root
from agents.spool import Spool


@dataclass(frozen=True, slots=True)
class Status:
    """What the agent is at. ``reads_per_s`` is the live rate of the stream, None when nothing streams."""

    job_id: str | None
    phase: str
    reads: int
    reads_per_s: float | None
    reports: tuple[Report, ...]


START_S = 120.0  # imports on a cold disk, and the drivers of a GPU waking up


class JobProcessFailed(Exception):
    """The job process does not come up; the text says why."""


class Agent:
    """All calls are short but ``poll``, which waits up to its ``wait_s``. Safe to call from several threads."""

    def __init__(
        self, folder: Path | None = None, now: Callable[[], float] = time.time, start_s: float = START_S
    ) -> None:
        """``folder``: where this device keeps its things; by default as ``agents.places`` says *on this machine*.

        ``start_s``: how long the job process may take to say what this machine is.
        """
        self._folder = folder or device_root(data_root())
        self._now = now
        self._spool = Spool(self._folder / "spool")
        self._changed = threading.Condition()
        self._child: subprocess.Popen[bytes] | None = None
        self._device: Device | None = None
        self._job: Job | None = None
        self._phase = "idle"
        self._live: dict[str, Any] | None = None
        self._reports: list[Report] = []
        self._closing = False
        self._said_before = 0  # size of the job process's log when the present one was started
        self._start_s = start_s
        self._error: str | None = None

    def device(self) -> Device:
        """This machine; starts the job process if there is none. Raises JobProcessFailed."""
        with self._changed:
            return self._up()

    def start(self, job: Job) -> Status:
        """Hands ``job`` to the job process; one that is already running is not started twice.

        Raises JobProcessFailed, also where another job runs.
        """
        with self._changed:
            if self._job is not None:
                if (self._job.job_id, self._job.attempt) == (job.job_id, job.attempt):
                    return self._status()
                raise JobProcessFailed(f"busy with {self._job.job_id}")
            self._up()
            if self._job is not None:  # started by another thread meanwhile
                raise JobProcessFailed(f"busy with {self._job.job_id}")
            self._job, self._phase, self._live = job, "starting", None
            self._send(b'{"run": ' + to_json(job) + b"}")
            return self._status()

    def poll(self, wait_s: float = 0.0) -> Status:
        """Returns at once if there are reports or the phase is new, else after ``wait_s`` with a live view."""
        with self._changed:
            if not self._reports and self._job is not None:
                before = self._phase
                self._send(b'{"live": true}')
                self._changed.wait_for(lambda: self._reports or self._phase != before, timeout=wait_s)
            return self._status()

    def _status(self) -> Status:
        live = self._live or {}
        return Status(
            job_id=self._job.job_id if self._job else None,
            phase=self._phase,
            reads=int(live.get("reads", 0)),
            reads_per_s=live.get("reads_per_s"),
            reports=tuple(self._reports),
        )

    def uncollected(self, campaign_id: str) -> tuple[Report, ...]:
        """Reports of an earlier coordinator's jobs that nobody has stored."""
        return tuple(self._spool.reports(campaign_id))

    def collected(self, job_id: str, attempt: int) -> None:
        """The coordinator has stored this report: it need not be kept here."""
        self._spool.drop(job_id, attempt)
        with self._changed:
            self._reports = [each for each in self._reports if (each.job_id, each.attempt) != (job_id, attempt)]

    def cancel(self) -> None:
        """Ends the running job; its report says cancelled."""
        with self._changed:
            self._send(b'{"cancel": true}')

    def close(self) -> None:
        """Ends the job process and with it the engine."""
        with self._changed:
            self._closing = True
            child = self._child
        if child is not None:
            with suppress(OSError):  # what could not be written to a job process that has ended
                _pipe(child.stdin).close()
            try:
                child.wait(timeout=5.0)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _up(self) -> Device:
        """The device, as the job process that runs now tells it. Raises JobProcessFailed within START_S."""
        if self._closing:
            raise JobProcessFailed("this agent has been closed")
        if self._child is None:
            self._error = self._device = None
            self._start_child()
        child = self._child
        settled = self._changed.wait_for(
            lambda: self._child is not child or self._device is not None, timeout=self._start_s
        )
        if not settled and child is not None:
            child.kill()
            raise JobProcessFailed(
                f"the job process did not start within {self._start_s:g} s; see {self._stderr_path()}"
            )
        if self._child is not child or self._device is None:
            raise JobProcessFailed(self._error or f"the job process did not start; see {self._stderr_path()}")
        return self._device

    def _start_child(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._popen()
        except OSError as error:
            raise JobProcessFailed(f"the job process cannot be started: {error}") from error
        threading.Thread(target=self._listen, args=(self._child,), daemon=True).start()

    def _popen(self) -> None:
        with self._stderr_path().open("ab") as stderr:
            self._said_before = stderr.tell()
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "agents.runner", str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(),
                start_new_session=True,  # a Ctrl-C in the terminal is the coordinator's to handle
            )

    def _stderr_path(self) -> Path:
        return self._folder / "runner.log"

    def _send(self, line: bytes) -> None:
        if self._child is not None:
            with suppress(OSError, ValueError):  # it ended: the listener reports that
                _pipe(self._child.stdin).write(line + b"\n")
                _pipe(self._child.stdin).flush()

    def _listen(self, child: subprocess.Popen[bytes]) -> None:
        for line in _pipe(child.stdout):
            with self._changed:
                with suppress(ValueError):  # the half line of a process that was killed
                    self._take(line)
                self._changed.notify_all()
        code = child.wait()
        with self._changed:
            self._child = None
            if self._error is None:
                self._error = self._last_words(code)
            for pipe in (child.stdin, child.stdout):
                with suppress(OSError):
                    _pipe(pipe).close()
            if self._job is not None and not self._closing:
                spooled = self._spool.get(self._job.job_id, self._job.attempt)  # it may have died just before it told
                self._reports.append(spooled or self._lost(self._job, code))
            self._job, self._phase, self._live = None, "idle", None
            self._changed.notify_all()

    def _last_words(self, code: int) -> str:
        """Why a job process ended that said nothing itself."""
        try:
            with self._stderr_path().open("rb") as file:
                file.seek(self._said_before)
                lines = file.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
        except OSError:
            lines = []
        last = f": {lines[-1]}" if lines else ""
        return f"the job process ended with exit code {code}{last}; see {self._stderr_path()}"

    def _take(self, line: bytes) -> None:
        message: dict[str, Any] = json.loads(line)
        if "phase" in message:
            self._phase, self._live = message["phase"], None
        elif "live" in message:
            self._live = message["live"]
        elif "error" in message:
            self._error = message["error"]
        elif "device" in message:
            self._device = from_json(Device, json.dumps(message["device"]))
        elif "report" in message:
            self._reports.append(from_json(Report, json.dumps(message["report"])))
            self._job, self._phase = None, "idle"

    def _lost(self, job: Job, code: int) -> Report:
        device = self._device
        now = self._now()
        return Report(
            job_id=job.job_id,
            attempt=job.attempt,
            campaign_id=job.campaign_id,
            device_id=job.device_id,
            fingerprint=device.fingerprint if device else "",
            boot_id=device.boot_id if device else "",
            started_unix_s=now,
            ended_unix_s=now,
            outcome=Failed(Cause.ENGINE_LOST, self._error or f"the job process ended with exit code {code}"),
        )


def _environment() -> dict[str, str]:
    """Without what Ray puts into a worker that asks for no CPU and no GPU: it would hide the GPU from the engine."""
    hidden = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR")
    keep = {name: value for name, value in os.environ.items() if not (name in hidden and value == "")}
    keep.pop("OMP_NUM_THREADS", None)
    return keep


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
