"""Progress of a download or a hash in sentences for people, at most one a second."""

from __future__ import annotations

import time
from collections.abc import Callable

from agents.units import format_size

Notify = Callable[[str], None]


class ByteProgress:
    """Notifies ``WHAT: 3.1 GiB of 18.1 GiB``, at most every ``every_s``, but the first time and at the end always.

    ``total_bytes`` None: not known, and left out.
    """

    def __init__(
        self,
        notify: Notify,
        what: str,
        total_bytes: int | None,
        *,
        seconds: Callable[[], float] = time.monotonic,
        every_s: float = 1.0,
    ) -> None:
        self._notify = notify
        self._what = what
        self._total = total_bytes
        self._seconds = seconds
        self._every_s = every_s
        self._notified_at: float | None = None

    def update(self, done_bytes: int) -> None:
        now = self._seconds()
        due = self._notified_at is None or now - self._notified_at >= self._every_s
        if due or (self._total is not None and done_bytes >= self._total):
            self._notified_at = now
            of_all = "" if self._total is None else f" of {format_size(self._total)}"
            self._notify(f"{self._what}: {format_size(done_bytes)}{of_all}")

    def offset_by(self, before_bytes: int) -> Callable[[int], None]:
        """``update`` for one of several files: ``before_bytes`` were in those before it."""
        return lambda here_bytes: self.update(before_bytes + here_bytes)
