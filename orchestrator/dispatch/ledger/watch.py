"""Looks at the ledger's file every few seconds, beside the loop: whether it is there, the same, and a database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestrator.dispatch.ledger.file import LedgerDamaged, check_pages
from orchestrator.dispatch.ledger.ledger import Ledger

EVERY_S = 4.0


class LedgerWatch:
    """``on_damage`` is called once, from a thread of this watch, and the watch is over."""

    def __init__(self, path: Path, ledger: Ledger, on_damage: Callable[[LedgerDamaged], object]) -> None:
        self._path = path
        self._ledger = ledger
        self._on_damage = on_damage
        self._changed_ns = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(EVERY_S):
            try:
                self.look()
            except LedgerDamaged as error:
                if not self._closed.is_set():
                    self._on_damage(error)
                return

    def look(self) -> None:
        """Raises LedgerDamaged."""
        self._ledger.check_file()
        with suppress(FileNotFoundError):  # deleted just now: found at the next look
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns != self._changed_ns:  # by a checkpoint, every thousand pages or so, or by a stranger
                check_pages(self._path)
            self._changed_ns = changed_ns

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
