"""Keeps the machine from sleeping, and a closed lid from putting it to sleep, while jobs run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress

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
        self._tries = commands(platform.system(), os.getpid()) if tries is None else tries
        self._child: subprocess.Popen[bytes] | None = None

    def hold(self) -> None:
        """Called at each job: a program that has ended meanwhile had no right to do it, and the next one is tried."""
        if platform.system() == "Windows":
            self._windows(_ES_CONTINUOUS | _ES_SYSTEM_REQUIRED)
        if self._child is not None and self._child.poll() is None:
            return
        self._reap()
        while self._tries and self._child is None:
            command, self._tries = self._tries[0], self._tries[1:]
            if shutil.which(command[0]) is None:
                continue
            with suppress(OSError):
                self._child = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )

    @property
    def held(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def close(self) -> None:
        if platform.system() == "Windows":
            self._windows(_ES_CONTINUOUS)
        if self._child is not None:
            self._child.terminate()
        self._reap()

    def _reap(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            if child.stdin is not None:
                with suppress(OSError):
                    child.stdin.close()
            child.wait()

    @staticmethod
    def _windows(state: int) -> None:
        """For the thread that calls: the one that jobs run on lives as long as the process."""
        import ctypes

        getattr(ctypes, "windll").kernel32.SetThreadExecutionState(state)  # noqa: B009  not there elsewhere
