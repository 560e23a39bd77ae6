"""Keeps the machine from sleeping, and a closed lid from putting it to sleep, while jobs run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_WHO = ("--who=orchestrate", "--why=a benchmark runs", "--mode=block")
_ES_CONTINUOUS, _ES_SYSTEM_REQUIRED = 0x80000000, 0x00000001  # of SetThreadExecutionState


def commands(system: str, pid: int) -> tuple[tuple[str, ...], ...]:
    """Programs that hold off sleep as long as they run, the best first. PURE

    ``cat`` ends with our end of its stdin, whatever becomes of us. The lid needs a right that a session without a seat
    lacks; sleep and idle are then held off alone.
    """
    if system == "Linux":
        whats = ("sleep:idle:handle-lid-switch", "sleep:idle")
        return tuple(("systemd-inhibit", f"--what={what}", *_WHO, "cat") for what in whats)
    if system == "Darwin":
        return (("caffeinate", "-i", "-m", "-s", "-w", str(pid)),)
    return ()


class Awake:
    """From the first ``hold`` to ``close``, or to the end of this process. Where nothing can be held, nothing is."""

    def __init__(self, tries: Sequence[Sequence[str]] | None = None) -> None:
        self._tries = _usable() if tries is None else tuple(tries)
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def hold(self) -> None:
        """Called at each job. Returns at once: a program that has no right to do it ends, and the next one is tried."""
        if platform.system() == "Windows":
            _windows(_ES_CONTINUOUS | _ES_SYSTEM_REQUIRED)
        if self._thread is None and any(shutil.which(command[0]) for command in self._tries):
            self._thread = threading.Thread(target=self._run, name="awake", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        """Waits for each program's end: no zombie stays, and a program that ends early makes room for the next one."""
        for command in self._tries:
            try:
                child = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            except OSError:
                continue
            self._child = child
            if self._closed.is_set():
                child.terminate()
            child.wait()
            if child.stdin is not None:
                with suppress(OSError):
                    child.stdin.close()
            if self._closed.is_set():
                return

    @property
    def held(self) -> bool:
        return self._child is not None and self._child.returncode is None

    def close(self) -> None:
        self._closed.set()
        if platform.system() == "Windows":
            _windows(_ES_CONTINUOUS)
        if self._thread is not None:
            if self._child is not None:
                self._child.terminate()
            self._thread.join()


def _usable() -> tuple[tuple[str, ...], ...]:
    system = platform.system()
    if system == "Linux" and not Path("/run/systemd/system").is_dir():  # sd_booted(3): nobody to ask, as in a container
        return ()
    return commands(system, os.getpid())


def _windows(state: int) -> None:
    """For the thread that calls: the one that jobs run on lives as long as the process."""
    import ctypes

    getattr(ctypes, "windll").kernel32.SetThreadExecutionState(state)  # noqa: B009  not there elsewhere
