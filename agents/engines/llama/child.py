"""The process of an engine that an agent started for one loaded model: its log, its end, and whether it lives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from agents.clock import Clock
from agents.contract.report import Cause
from agents.engines.base import DYING_S
from agents.engines.llama import tied_program
from agents.engines.llama.log import cause_of_death
from agents.errors import EngineLost, LoadFailed, RequestFailed, cause_of_os_error

SPIN_COUNT = "10000"
"""GOMP_SPINCOUNT: with libgomp's default, threads that wait spin for long, and a busy core beside them brought 492
tokens/s down to 7; with this, 1,261."""
LOG_TAIL = 4000
LOG_SETTLES_S = 3.0  # llama.cpp writes its log from a thread of its own: its last lines may come after the answer
ENDS_S = 5.0  # for a watcher to end its program, where the kernel does not


class Child:
    """stdout is a pipe where ``pipes_stdout``; else it goes to the log, as stderr does. The child's environment is
    ours without the variables whose names begin with one of ``omitted``.

    Raises LoadFailed where the process cannot be started.
    """

    def __init__(self, command: Sequence[str], log: Path, *, pipes_stdout: bool, omitted: tuple[str, ...] = ()) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(omitted)}
        with log.open("wb") as log_file:
            try:
                self.process = subprocess.Popen(
                    command,
                    # Its end is how a watcher (``tied_program``) notices that this process is gone.
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE if pipes_stdout else log_file,
                    stderr=log_file,
                    env={**kept, "GOMP_SPINCOUNT": spin_count()},
                )
            except OSError as error:
                detail = f"{command[0]} cannot be started: {error.strerror}"
                raise LoadFailed(Cause.RUNTIME_MISSING, detail) from error

    @property
    def returncode(self) -> int | None:
        return self.process.poll()

    def pipe(self, name: str) -> IO[bytes]:
        """The process's ``stdin`` or ``stdout``, which must be a pipe."""
        found: IO[bytes] | None = getattr(self.process, name)
        assert found is not None
        return found

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def tail(self) -> str:
        return self.log()[-LOG_TAIL:]

    def complete_log(self, last_line: str, clock: Clock) -> str:
        """Waits until ``last_line`` stands in the log, LOG_SETTLES_S at most, and returns the log.

        Raises LoadFailed (DISK_FULL) if it does not come because the disk is full.
        """
        deadline = clock.monotonic_ns() + int(LOG_SETTLES_S * 1e9)
        while last_line not in (log := self.log()):
            if clock.monotonic_ns() > deadline:
                # Other builds may word this line differently: without it the log is used as it is.
                refuse_full_disk(self._log)
                break
            clock.sleep(0.01)
        return log

    def check_alive(self, within_s: float = DYING_S) -> None:
        """Raises RequestFailed or EngineLost, with the end of the log, if the process ends within ``within_s``."""
        # A connection breaks some moments before the process that held it is gone.
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=within_s)
        ended = self.process.returncode
        if ended is None:
            return
        cause, detail = cause_of_death(ended)
        if cause is Cause.ENGINE_LOST:
            raise EngineLost(detail, self.tail())
        raise RequestFailed(cause, detail, self.tail())

    def end(self) -> None:
        """Ends the process and reaps it. Killed at once: what it holds is memory, and llama.cpp's own way out was
        seen to hang. A watcher ends its program first."""
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        # Elsewhere than on Linux the child is the watcher: a kill would leave its program running.
        if sys.platform != "linux":
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=ENDS_S)
        with suppress(OSError):
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            with suppress(OSError):
                self.process.stdout.close()


def tied_to_parent(program: Path, arguments: Sequence[str]) -> list[str]:
    """The command that starts ``program`` so that it dies with this process."""
    # -I -S: it needs the standard library alone, and nothing that is installed shall slow or break its start.
    return [sys.executable, "-I", "-S", str(Path(tied_program.__file__)), str(program), *arguments]


def spin_count() -> str:
    return os.environ.get("GOMP_SPINCOUNT", SPIN_COUNT)


def environment_facts() -> Mapping[str, str]:
    """What changes an engine from outside, for the row: variables of GPU drivers and threads, priority."""
    prefixes = ("GGML_", "HSA_", "ROCR_", "HIP_", "CUDA_", "VK_", "MESA_", "RADV_", "OMP_")
    seen = {name: value for name, value in sorted(os.environ.items()) if name.startswith(prefixes)}
    # Ray's workers run at nice 15 unless configured otherwise.
    nice = {"nice": str(os.getpriority(os.PRIO_PROCESS, 0))} if hasattr(os, "getpriority") else {}
    return {"GOMP_SPINCOUNT": spin_count(), **nice, **seen}


def refuse_full_disk(log: Path) -> None:
    """Raises LoadFailed (DISK_FULL) if the log's disk takes no more: without its log nothing is known of a load."""
    probe = log.with_suffix(".full")
    try:
        # A block: a few bytes may find room where a log line does not.
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        cause = cause_of_os_error(error) or Cause.DISK_FULL
        raise LoadFailed(cause, f"the engine's log {log} cannot be written: {error.strerror}") from error
    finally:
        probe.unlink(missing_ok=True)
