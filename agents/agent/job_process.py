"""The process that runs jobs, as its agent has it: lines in, lines out, last words in a log, and its end."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

LOOK_S = 0.05


class JobProcess:
    """``python -m agents.job.runner``. It ends when its stdin does, and takes the engine with it.

    It may hang, and its agent holds a lock: so no method waits for it but ``lines``, ``wait``, ``ended_within`` and
    ``remaining``.
    """

    def __init__(self, folder: Path) -> None:
        """``folder``: where the device keeps its things; made if need be. Raises OSError."""
        self.log = folder / "runner.log"
        folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as stderr:
            # The log is appended to by each process: the last words of this one begin here.
            self._log_offset = stderr.tell()
            self._child = subprocess.Popen(
                # -P: no file in the current folder takes the place of a module.
                [sys.executable, "-P", "-m", "agents.job.runner", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(),
                start_new_session=True,  # a Ctrl-C in the terminal is the coordinator's to handle
            )
        self._killed: list[psutil.Process] = []  # its descendants at the time of a kill: engine, sampler
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # A process that hangs reads nothing: once the pipe is full, a write waits for it.
        threading.Thread(target=self._write_lines, name="stdin", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, line: bytes) -> None:
        self._lines.put(line)

    def close(self) -> None:
        """Its stdin ends behind all that was sent, and so does it, in its time."""
        self._lines.put(None)

    def _write_lines(self) -> None:
        stdin = _pipe(self._child.stdin)
        # It may have ended: the thread that reads its lines finds out.
        with suppress(OSError, ValueError):
            while (line := self._lines.get()) is not None:
                stdin.write(line + b"\n")
                stdin.flush()
        # Closing flushes what is left in the buffer, and that fails once the process has ended.
        with suppress(OSError):
            stdin.close()

    def lines(self) -> Iterator[bytes]:
        """Its lines, until it ends."""
        yield from _pipe(self._child.stdout)

    def wait(self) -> int:
        """Its exit code, once ``lines`` are over."""
        code = self._child.wait()
        self.close()
        with suppress(OSError):
            _pipe(self._child.stdout).close()
        return code

    def describe_exit(self, code: int) -> str:
        """Why it ended, by the last line of its log; for one that reported no error itself."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._log_offset)
                lines = file.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
        except OSError:
            lines = []
        last = f": {lines[-1]}" if lines else ""
        return f"the job process ended with exit code {code}{last}; see {self.log}"

    def kill(self) -> None:
        """SIGKILL for it and for what it has started, such as an engine: that could hang as well."""
        with suppress(psutil.Error):
            self._killed = psutil.Process(self.pid).children(recursive=True)
        # Itself first: it would report the end of its engine as the engine's fault.
        self._child.kill()
        for child in self._killed:
            with suppress(psutil.Error):
                child.kill()

    def ended_within(self, seconds: float) -> bool:
        try:
            self._child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def remaining(self, within_s: float, monotonic: Callable[[], float] = time.monotonic) -> str:
        """What has not ended ``within_s`` though it was killed, or should have died with it; empty: nothing."""
        deadline_s = monotonic() + within_s
        while (left := [each for each in (*self._own(), *self._killed, *self._stuck()) if _is_there(each)]) and (
            monotonic() < deadline_s
        ):
            time.sleep(LOOK_S)
        return ", ".join(dict.fromkeys(map(_describe, left)))

    def _own(self) -> list[psutil.Process]:
        if self._child.poll() is not None:
            return []
        with suppress(psutil.Error):
            return [psutil.Process(self.pid)]
        return []

    def _stuck(self) -> Iterator[psutil.Process]:
        """Of its process group, what waits in the kernel: the kernel has killed it with its parent, and it stays."""
        if sys.platform != "linux" or self._child.poll() is None:
            return
        for pid in psutil.pids():
            with suppress(OSError, psutil.Error):
                if os.getpgid(pid) == self.pid and psutil.Process(pid).status() == psutil.STATUS_DISK_SLEEP:
                    yield psutil.Process(pid)


def _is_there(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _describe(process: psutil.Process) -> str:
    try:
        return f"process {process.pid} ({process.name()})"
    except psutil.Error:
        return f"process {process.pid}"


def _environment() -> dict[str, str]:
    """Without what Ray puts into a worker that asks for no CPU and no GPU: it would hide the GPU from the engine."""
    hidden = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR")
    keep = {name: value for name, value in os.environ.items() if not (name in hidden and value == "")}
    keep.pop("OMP_NUM_THREADS", None)
    return keep


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
