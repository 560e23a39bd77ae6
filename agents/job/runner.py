"""The job process: ``python -m agents.job.runner FOLDER``. Runs jobs one after the other, away from Ray's threads.

JSON lines on stdin: ``{"run": Job, "peers": Peers or null}``, ``{"live": true}`` (asks for a live view),
``{"cancel": true}``. JSON lines on stdout: ``{"device": Device}`` or ``{"error": ...}`` once, then ``{"phase": ...,
"limit_s": ...}`` for each stage, ``{"live": ...}`` and ``{"report": Report, "kept": bool}``; between them
``{"log": [level, text]}``. The process ends when stdin does, whatever it is doing, and its engine with it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from agents.agent.spool import Spool
from agents.contract.job import Job
from agents.contract.model_peers import Peers
from agents.contract.report import Cause, Failed, Report
from agents.contract.stages import CLEARING_S, ENDING, stage_limit_s
from agents.contract.wire_json import from_json, to_json
from agents.engines.stream.exchange import LiveCount
from agents.errors import AgentError, cause_of_os_error
from agents.job.host import Host
from agents.log import AGENT, Entry, hide, level_here, message_of, start_log, suppressed
from agents.power.methods.base import NotRestored

log = logging.getLogger(__name__)

BUSY_WAIT_S = 5.0  # an earlier job process may be on its way out


class ToAgent(logging.Handler):
    """Log lines go to the agent, through the pipe that is there: one process alone writes and rotates ``agent.log``."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(json.dumps({"log": [record.levelno, message_of(record)]}).encode())


class CancelEvent(threading.Event):
    """``on_noticed`` is called once after each ``set``: when what obeys the cancel has looked, on the thread that did.

    It may still take a while to undo what it has begun, such as the load of a server; but it does not hang.
    """

    def __init__(self, on_noticed: Callable[[], object]) -> None:
        super().__init__()
        self._on_noticed = on_noticed
        self._is_noticed = False

    def is_set(self) -> bool:
        return super().is_set() and self._noticed()

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(timeout) and self._noticed()

    def clear(self) -> None:
        super().clear()
        self._is_noticed = False

    def _noticed(self) -> bool:
        if not self._is_noticed:
            self._is_noticed = True
            self._on_noticed()
        return True


class Runner:
    """Jobs run on the main thread: on Linux an engine dies with the *thread* that started it."""

    def __init__(self, folder: Path) -> None:
        self._jobs: queue.Queue[tuple[Job, Peers | None]] = queue.Queue()
        self._host: Host | None = None
        self._cancelled = CancelEvent(self._on_cancel_noticed)
        self._live: LiveCount | None = None
        self._writing = threading.Lock()
        self._spool = Spool(folder / "spool")
        self._folder = folder

    def serve(self) -> None:
        with suppress(OSError):  # Ray's workers run at nice 15; only root may take that back
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        # Before anything is set on the machine, so that whatever is set later is also taken back.
        signal.signal(signal.SIGTERM, self._on_sigterm)
        start_log(ToAgent(self._write), level_here(AGENT))
        # Already while the machine is examined: an agent that closes stdin then must end this process as well.
        threading.Thread(target=self._listen, name="stdin", daemon=True).start()
        busy = FileLock(self._folder / "busy.lock", timeout=BUSY_WAIT_S)
        try:
            busy.acquire()  # held until this process ends: one benchmark at a time on a device
            self._host = host = Host.of_this_machine(self._folder)
        except Timeout:
            return self._fail("this device is busy with another coordinator's benchmark")
        except (ValueError, OSError, AgentError) as error:
            return self._fail(str(error))
        except Exception as error:  # whatever it is, the agent must know of it
            return self._fail(f"a fault of the agent itself, please report it: {type(error).__name__}: {error}")
        self._write(b'{"device": ' + to_json(host.device) + b"}")
        while True:
            job, host.peers = self._jobs.get()
            try:
                report = self._run(host, job)
            except NotRestored as error:  # no job may run on a machine in nobody's state; the next start tries again
                host.unload()
                return self._fail(error.detail)
            report, is_kept = self._kept(report)
            self._write(b'{"kept": ' + json.dumps(is_kept).encode() + b', "report": ' + to_json(report) + b"}")

    def _fail(self, why: str) -> None:
        self._write(json.dumps({"error": why}).encode())

    def _run(self, host: Host, job: Job) -> Report:
        try:
            return host.run(job, self._cancelled, partial(self._notify, job))
        # No outcome of this one job: ``serve`` reports the whole device as unusable.
        except NotRestored:
            raise
        except Exception:
            log.exception(Entry("JobCrashed", job))
            host.unload()
            why = "a fault of the agent itself, please report it"
            outcome = Failed(Cause.AGENT_FAULT, why, log_tail=traceback.format_exc()[-4000:])
            return Report.unmeasured((job.job_id, job.attempt), job.run_id, outcome, host.clock.unix_s(), host.device)
        finally:
            self._live = None

    def _kept(self, report: Report) -> tuple[Report, bool]:
        """The report, and whether it lies in the spool. Where the disk takes no more it still goes through the pipe,
        and its log says so."""
        try:
            self._spool.put(report)
        except OSError as error:
            log.error(Entry("ReportNotKept", report, detail=str(error)))
            cause = cause_of_os_error(error) or Cause.DISK_FULL
            words = f"{cause.value}: this report could not be kept on the device's disk: {error}"
            return replace(report, log=f"{report.log}\n{words}\n".lstrip()), False
        return report, True

    def _notify(self, job: Job, stage: str, live: LiveCount | None) -> None:
        self._live = live
        limit_s = stage_limit_s(stage, job.timeouts, job.workload)  # the agent ends what outlives it: see HangDetector
        self._write(json.dumps({"phase": stage, "limit_s": limit_s}).encode())

    def _on_cancel_noticed(self) -> None:
        self._write(json.dumps({"phase": ENDING, "limit_s": CLEARING_S}).encode())

    def _write(self, line: bytes) -> None:
        # The main thread writes, the one that reads stdin, and each thread that logs.
        with self._writing:
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()

    def _listen(self) -> None:
        try:
            for line in sys.stdin.buffer:
                self._handle(json.loads(line))
        except BaseException:  # a process that does not listen could not be ended either
            traceback.print_exc()
            os._exit(1)
        self._end(0)

    def _end(self, code: int) -> None:
        """What was set on the machine is taken back; the engine follows: its stdin ends, and the kernel kills it."""
        try:
            if self._host is not None:
                # Where it fails, the journal stays and the next start restores.
                with suppressed(log, "PowerNotRestored", AgentError):
                    self._host.power.release()
        finally:
            os._exit(code)

    def _on_sigterm(self, number: int, _: object) -> None:
        """By SIGTERM, as when a whole node is stopped. On another thread: this one may be setting a limit just now."""
        threading.Thread(target=self._end, args=(128 + number,), name="end").start()

    def _handle(self, message: dict[str, Any]) -> None:
        if "run" in message:
            self._cancelled.clear()  # a cancel that came too late was not meant for this job
            peers = message.get("peers")
            job = from_json(Job, json.dumps(message["run"]))
            known = from_json(Peers, json.dumps(peers)) if peers else None
            if known is not None:
                hide(known.token)
            self._jobs.put((job, known))
        elif "cancel" in message:
            self._cancelled.set()
        elif "live" in message:
            self._write(json.dumps({"live": _view(self._live)}).encode())


def _view(live: LiveCount | None) -> dict[str, float | int] | None:
    """Reads so far and reads a second: one read is one token on the engines that send them one by one."""
    if live is None or live.reads == 0:
        return None
    seconds = (live.last_ns - live.first_ns) / 1e9
    return {"reads": live.reads, "reads_per_s": (live.reads - 1) / seconds if seconds > 0 else 0.0}


if __name__ == "__main__":
    Runner(Path(sys.argv[1])).serve()
    os._exit(1)  # it could not start; a thread that waits on stdin would make the interpreter's own end a crash
