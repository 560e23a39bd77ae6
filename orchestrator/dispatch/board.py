"""What happened lately, for watchers that come and go: numbered, so that each goes on where it was."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.dispatch.happenings import Happening, JobProgress

KEPT = 5_000
"""Happenings kept for a run: a watcher that was away for longer sees a gap in the lines, none in the counts."""


@dataclass(frozen=True, slots=True)
class News:
    """``next``: what to ask for the next time."""

    happenings: tuple[Happening, ...]
    next: int


class Board:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kept: dict[str, deque[tuple[int, Happening]]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._count = 0
        self._progress: dict[str, JobProgress] = {}
        self._open = True

    def tell(self, run: str, happening: Happening) -> None:
        with self._changed:
            self._count += 1
            self._kept[run].append((self._count, happening))
            self._changed.notify_all()

    def progress(self, happening: JobProgress) -> None:
        """Only the latest of each device is kept."""
        with self._changed:
            self._progress[happening.device.device_id] = happening
            self._changed.notify_all()

    def latest(self) -> dict[str, JobProgress]:
        with self._changed:
            return dict(self._progress)

    @property
    def count(self) -> int:
        with self._changed:
            return self._count

    def news(self, run: str, after: int, wait_s: float, devices: Iterable[str] = ()) -> News:
        """What happened to ``run`` after number ``after``; waits up to ``wait_s`` for something to happen."""
        with self._changed:
            progress = dict(self._progress)
            self._changed.wait_for(lambda: not self._open or self._is_new(run, after, progress), timeout=wait_s)
            new = [happening for number, happening in self._kept[run] if number > after]
            live = [self._progress[each] for each in devices if each in self._progress]
            return News((*new, *live), self._count)

    def _is_new(self, run: str, after: int, progress: dict[str, JobProgress]) -> bool:
        kept = self._kept[run]
        return bool(kept and kept[-1][0] > after) or self._progress != progress

    def wait(self, wait_s: float) -> None:
        """Until something happens, or ``wait_s`` are over."""
        with self._changed:
            self._changed.wait(timeout=wait_s)

    def forget(self, runs_to_keep: Iterable[str]) -> None:
        with self._changed:
            keep = set(runs_to_keep)
            for run in [run for run in self._kept if run not in keep]:
                del self._kept[run]

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()
