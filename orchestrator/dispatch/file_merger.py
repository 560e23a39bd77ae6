"""Merges a run's files while it goes on, on a thread of its own: the loop's thread only counts."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path

from agents.log import suppressed
from orchestrator.results.merging import FAN
from orchestrator.results.store import Store

log = logging.getLogger(__name__)


class FileMerger:
    """All methods from any thread. What fails (a full disk) is logged, and tried again when more files are there."""

    def __init__(self, root: Path) -> None:
        self._store = Store(root)  # its own: a store's memories are of one thread
        self._lock = threading.Lock()
        self._kept: Counter[str] = Counter()  # attempts of each run since it was looked at
        self._waiting: dict[str, bool] = {}  # runs to look at, and whether they have ended
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def attempt_kept(self, run_id: str) -> None:
        """An attempt of the run was stored."""
        self._kept[run_id] += 1
        if self._kept[run_id] >= FAN:
            self.look_at(run_id)

    def look_at(self, run_id: str, *, has_ended: bool = False) -> None:
        """Merges what there is to merge, soon. ``has_ended``: nothing is added to the run any more."""
        self._kept.pop(run_id, None)
        with self._lock:
            self._waiting[run_id] = has_ended or self._waiting.get(run_id, False)
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._work, name="merge", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        """Until nothing is to be done: an idle run costs no thread."""
        while True:
            with self._lock:
                if not self._waiting or self._stopped.is_set():
                    self._thread = None
                    return
                run_id, has_ended = self._waiting.popitem()
            # whatever it is: the results are there, and only reading them is slower
            with suppressed(log, "FilesNotMerged", Exception, run=run_id):
                while self._store.merge_small(run_id, has_ended=has_ended, is_stopped=self._stopped.is_set):
                    pass

    def close(self, timeout_s: float = 5.0) -> None:
        """Ends a merging that is under way: its parts stay as they are."""
        self._stopped.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
