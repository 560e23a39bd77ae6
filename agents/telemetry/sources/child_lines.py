"""A program that prints readings for as long as it lives: started once, its newest complete sample kept."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agents.clock import SystemClock

STALE_S = 5.0  # values older than this are not given: the program hangs
_END_S = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """``at_ns``: when its last line came."""

    lines: tuple[str, ...]
    at_ns: int


class ChildLines:
    """``ends_sample`` is whether a line is the last one of a sample.

    Reads on a thread of its own, in the process that made it: a fork does not take the thread along. The program ends
    with ``close``, and when its output has no reader any more.
    """

    def __init__(
        self,
        argv: Sequence[str],
        ends_sample: Callable[[str], bool],
        now_ns: Callable[[], int] = SystemClock.monotonic_ns,
    ) -> None:
        """Raises OSError where the program cannot be started."""
        self._now_ns = now_ns
        self._ends_sample = ends_sample
        self._newest: Sample | None = None
        self._child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, name=f"lines of {argv[0]}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        lines: list[str] = []
        for line in self._child.stdout:
            lines.append(line.strip())
            if self._ends_sample(lines[-1]):
                self._newest = Sample(tuple(lines), self._now_ns())
                lines = []
            del lines[:-10_000]  # a program that never ends a sample

    def sample(self) -> Sample | None:
        """The newest one; None before the first, and where the newest is old."""
        newest = self._newest
        if newest is None or self._now_ns() - newest.at_ns > STALE_S * 1e9:
            return None
        return newest

    def close(self) -> None:
        self._child.terminate()
        try:
            self._child.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._reader.join(_END_S)
        if self._child.stdout is not None and not self._reader.is_alive():
            self._child.stdout.close()
