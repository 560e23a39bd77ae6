"""When a job process that hangs must be ended, and when it must be given up. PURE: times are handed in

A call of a GPU driver may never return, and the time-outs of a job are in the process that calls it. So its agent
watches each stage from outside. SIGKILL itself does not end a process that hangs in a driver: that one is given up.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from agents.contract.report import HUNG


@dataclass(frozen=True, slots=True)
class HangLimits:
    """In seconds. ``extra_s``: past a stage's own limit, whose time-out comes first. ``cancel_s``: from a cancel to its
    answer. ``close_s``: from the end of its stdin to the end of the job process. ``kill_s``: from SIGKILL to that.
    ``look_s``: between two looks; where one is ``missed_s`` late, the agent itself did not run, and that time counts
    for nothing (a laptop that slept, a machine that was stopped).
    """

    extra_s: float = 60.0
    cancel_s: float = 10.0
    close_s: float = 5.0
    kill_s: float = 5.0
    look_s: float = 5.0
    missed_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Kill:
    """The job process hangs. ``stage``: at what; empty where no job runs."""

    stage: str
    why: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """SIGKILL does not end it."""


class HangDetector:
    """Of one job process. Not thread-safe: its agent's lock guards it. All times are of one monotonic clock."""

    def __init__(self, limits: HangLimits, now_s: float) -> None:
        self._limits = limits
        self._looked_s = now_s
        self._stage: tuple[str, float] | None = None  # with its limit; None: no job runs
        self._stage_began_s = now_s
        self._cancelled_s: float | None = None
        self._closed_s: float | None = None
        self._killed_s: float | None = None

    def begin_stage(self, stage: str, limit_s: float, now_s: float, *, answers_cancel: bool = False) -> None:
        self._stage, self._stage_began_s = (stage, limit_s), now_s
        if answers_cancel:
            self._cancelled_s = None

    def end_job(self) -> None:
        self._stage = self._cancelled_s = None

    def cancel(self, now_s: float) -> None:
        """A second cancel gives no more time."""
        if self._stage is not None and self._cancelled_s is None:
            self._cancelled_s = now_s

    def close(self, now_s: float) -> None:
        """Its stdin has ended: it should end."""
        if self._closed_s is None:
            self._closed_s = now_s

    def kill(self, now_s: float) -> None:
        if self._killed_s is None:
            self._killed_s = now_s

    @property
    def is_ending(self) -> bool:
        """No job may be handed to it."""
        return self._closed_s is not None or self._killed_s is not None

    def look(self, now_s: float) -> Kill | Abandon | None:
        """What must be done now; the caller does it, and calls ``kill`` where it has killed."""
        missed_s = now_s - self._looked_s
        if missed_s > self._limits.missed_s:
            self._shift(missed_s)
        self._looked_s = now_s
        if self._killed_s is not None:
            return Abandon() if now_s >= self._killed_s + self._limits.kill_s else None
        return next((kill for due_s, kill in self._due() if now_s >= due_s), None)

    def wait_s(self, now_s: float) -> float:
        """Until ``look`` is due again."""
        if self._killed_s is not None:
            due_s = self._killed_s + self._limits.kill_s
        else:
            due_s = min((due_s for due_s, _ in self._due()), default=inf)
        return max(min(due_s - now_s, self._limits.look_s), 0.0)

    def _due(self) -> list[tuple[float, Kill]]:
        stage, limit_s = self._stage or ("", inf)
        limits, due = self._limits, []
        if self._closed_s is not None:
            words = f"the job process did not end within {limits.close_s:g} s"
            due.append((self._closed_s + limits.close_s, Kill(stage, words)))
        if self._cancelled_s is not None:
            words = f'{HUNG} at "{stage}": a cancel was not answered within {limits.cancel_s:g} s'
            due.append((self._cancelled_s + limits.cancel_s, Kill(stage, words)))
        if self._stage is not None:
            late_s = limit_s + limits.extra_s
            words = f'{HUNG} at "{stage}": no end after {late_s:g} s, {limits.extra_s:g} s past its limit'
            due.append((self._stage_began_s + late_s, Kill(stage, words)))
        return due

    def _shift(self, seconds: float) -> None:
        self._stage_began_s += seconds
        self._cancelled_s = None if self._cancelled_s is None else self._cancelled_s + seconds
        self._closed_s = None if self._closed_s is None else self._closed_s + seconds
        self._killed_s = None if self._killed_s is None else self._killed_s + seconds
