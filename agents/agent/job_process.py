"""The process that runs jobs, as its agent has it: lines in, lines out, last words in a log."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

CLOSE_S = 5.0


class JobProcess:
    """``python -m agents.job.runner``. It ends when its stdin does, and takes the engine with it."""

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

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, line: bytes) -> None:
        with suppress(OSError, ValueError):  # it has ended: the thread that reads its lines finds out
            _pipe(self._child.stdin).write(line + b"\n")
            _pipe(self._child.stdin).flush()

    def lines(self) -> Iterator[bytes]:
        """Its lines, until it ends."""
        yield from _pipe(self._child.stdout)

    def wait(self) -> int:
        """Its exit code, once ``lines`` are over."""
        code = self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            # Closing flushes what ``send`` left in the buffer, and that fails once the process has ended.
            with suppress(OSError):
                _pipe(pipe).close()
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

    def close(self) -> None:
        """It ends, in its time."""
        with suppress(OSError):  # what could not be written to a process that has ended
            _pipe(self._child.stdin).close()

    def close_within(self, seconds: float) -> None:
        """It ends, and is killed where that takes longer. Does not wait."""
        self.close()
        killer = threading.Timer(seconds, self.kill)
        # Else an agent that ends meanwhile would stay until the timer fires.
        killer.daemon = True
        killer.start()

    def end(self) -> None:
        """It has ended, CLOSE_S from now at the latest."""
        self.close()
        try:
            self._child.wait(timeout=CLOSE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._child.wait()

    def kill(self) -> None:
        self._child.kill()


def _environment() -> dict[str, str]:
    """Without what Ray puts into a worker that asks for no CPU and no GPU: it would hide the GPU from the engine."""
    hidden = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR")
    keep = {name: value for name, value in os.environ.items() if not (name in hidden and value == "")}
    keep.pop("OMP_NUM_THREADS", None)
    return keep


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
