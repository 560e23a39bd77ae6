"""What happened lately, for watchers that come and go: numbered, so that each goes on where it was."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.dispatch.notices import JobProgress, Notice

MOST_RUNS = 200
"""Runs whose happenings are kept; the ledger and the store know all."""
KEPT = 5_000
"""Happenings kept for a run: a watcher that was away for longer sees a gap in the lines, none in the counts."""


@dataclass(frozen=True, slots=True)
class NoticeBatch:
    """``next``: what to ask for the next time."""

    notices: tuple[Notice, ...]
    next: int


class NoticeBoard:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._kept: dict[str, deque[tuple[int, Notice]]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._count = 0
        self._progress: dict[str, JobProgress] = {}
        self._open = True

    def tell(self, run: str, notice: Notice) -> None:
        with self._changed:
            self._count += 1
            self._kept[run].append((self._count, notice))
            if len(self._kept) > MOST_RUNS:
                self._kept.pop(next(iter(self._kept)))
            self._changed.notify_all()

    def progress(self, notice: JobProgress) -> None:
        """Only the latest of each device is kept."""
        with self._changed:
            self._progress[notice.device.device_id] = notice
            self._changed.notify_all()

    @property
    def count(self) -> int:
        with self._changed:
            return self._count

    def news(self, run: str, after: int, wait_s: float, devices: Collection[str] = ()) -> NoticeBatch:
        """What happened to ``run`` after number ``after``; waits up to ``wait_s`` for something to happen."""
        with self._changed:
            before = self._progress_of(devices)
            self._changed.wait_for(
                lambda: not self._open or self._is_new(run, after) or self._progress_of(devices) != before,
                timeout=wait_s,
            )
            new = [notice for number, notice in self._kept[run] if number > after]
            live = self._progress_of(devices)
            return NoticeBatch((*new, *live), self._count)

    def _is_new(self, run: str, after: int) -> bool:
        kept = self._kept.get(run)
        return bool(kept and kept[-1][0] > after)

    def _progress_of(self, devices: Collection[str]) -> list[JobProgress]:
        return [self._progress[each] for each in devices if each in self._progress]

    def wait(self, wait_s: float) -> None:
        """Until something happens, or ``wait_s`` are over."""
        with self._changed:
            self._changed.wait(timeout=wait_s)

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()
