"""The notices of each run, numbered, so that watchers may come and go: each asks for those after its last one."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.dispatch.notices import JobProgress, Notice

MOST_RUNS = 200
"""Runs whose notices are kept; the ledger and the store know all."""
KEPT = 5_000
"""Notices kept for a run: a watcher that was away for longer sees a gap in the lines, none in the counts."""


TERM_NUMBERS = 1_000_000
"""Numbers for the notices of one term. Terms are seconds at least apart, so a term never needs those of the next."""


@dataclass(frozen=True, slots=True)
class NoticeBatch:
    """``next``: the number to ask after the next time."""

    notices: tuple[Notice, ...]
    next: int


class NoticeBoard:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._notices: dict[str, deque[tuple[int, Notice]]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._count = 0
        self._progress: dict[str, JobProgress] = {}
        self._open = True

    def begin(self, term: int) -> None:
        """Before any notice: the numbers go on above those of earlier terms. Else a watcher of the coordinator before
        would ask this one for notices after a number that it reaches much later, and see none of those until then."""
        with self._changed:
            self._count = term * TERM_NUMBERS

    def post(self, run_id: str, notice: Notice) -> None:
        with self._changed:
            self._count += 1
            self._notices[run_id].append((self._count, notice))
            if len(self._notices) > MOST_RUNS:
                self._notices.pop(next(iter(self._notices)))
            self._changed.notify_all()

    def post_progress(self, notice: JobProgress) -> None:
        """Only the latest of each device is kept."""
        with self._changed:
            self._progress[notice.device.device_id] = notice
            self._changed.notify_all()

    @property
    def count(self) -> int:
        """The number of the latest notice."""
        with self._changed:
            return self._count

    def notices_after(self, run_id: str, number: int, wait_s: float, devices: Collection[str] = ()) -> NoticeBatch:
        """Notices after ``number``, and the progress of ``devices``; waits up to ``wait_s`` for something new."""
        with self._changed:
            before = self._progress_of(devices)
            self._changed.wait_for(
                lambda: not self._open or self._has_after(run_id, number) or self._progress_of(devices) != before,
                timeout=wait_s,
            )
            new = [notice for at, notice in self._notices[run_id] if at > number]
            return NoticeBatch((*new, *self._progress_of(devices)), self._count)

    def _has_after(self, run_id: str, number: int) -> bool:
        notices = self._notices.get(run_id)
        return bool(notices and notices[-1][0] > number)

    def _progress_of(self, devices: Collection[str]) -> list[JobProgress]:
        return [self._progress[each] for each in devices if each in self._progress]

    def wait(self, wait_s: float) -> None:
        """Until something is posted, or ``wait_s`` are over."""
        with self._changed:
            self._changed.wait(timeout=wait_s)

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()
