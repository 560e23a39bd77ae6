"""Bounds of a model server's connections, apart for those that have shown the token and those that have not. PURE

A stranger's connections must keep no device with the token out. So where too many have shown none, the oldest makes
room for the new one: a device shows its token at once, only a silent connection grows old.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Connection = TypeVar("Connection", bound=Hashable)

MAX_SHOWN = 64
MAX_UNSHOWN = 64
MAX_UNSHOWN_PER_ADDRESS = 16
SHOW_S = 5.0
"""From its acceptance on, a connection has this long to show the token, however busily it sends."""


@dataclass(frozen=True, slots=True)
class _Unshown:
    address: str
    deadline_s: float


@dataclass(slots=True)
class Admission(Generic[Connection]):
    """Safe to use from several threads. Times are of one clock that never goes back."""

    _shown: set[Connection] = field(default_factory=set)
    _unshown: dict[Connection, _Unshown] = field(default_factory=dict)  # the oldest first
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def accept(self, connection: Connection, address: str, now_s: float) -> Connection | None:
        """Takes a new connection in. Returns the one that must be closed for it."""
        with self._lock:
            crowded = self._crowded(address)
            oldest = next((old for old, its in self._unshown.items() if its.address == crowded), None)
            if oldest is not None:
                del self._unshown[oldest]
            self._unshown[connection] = _Unshown(address, now_s + SHOW_S)
            return oldest

    def show(self, connection: Connection) -> bool:
        """Notes that it has shown the token. False where it must be closed: it was too late, or one too many."""
        with self._lock:
            in_time = self._unshown.pop(connection, None) is not None
            if in_time and len(self._shown) < MAX_SHOWN:
                self._shown.add(connection)
                return True
            return False

    def overdue(self, now_s: float) -> tuple[Connection, ...]:
        """Those that must be closed, since they have not shown the token in time; each is returned once."""
        with self._lock:
            late = tuple(connection for connection, its in self._unshown.items() if its.deadline_s <= now_s)
            for connection in late:
                del self._unshown[connection]
            return late

    def remove(self, connection: Connection) -> None:
        """One that has ended."""
        with self._lock:
            self._unshown.pop(connection, None)
            self._shown.discard(connection)

    def _crowded(self, address: str) -> str | None:
        """The address that has to make room for one more of ``address``, if any has."""
        counts = Counter(its.address for its in self._unshown.values())
        if counts[address] >= MAX_UNSHOWN_PER_ADDRESS:
            return address
        # That of the most: who opens one connection is not closed for another who opens many.
        return counts.most_common(1)[0][0] if counts.total() >= MAX_UNSHOWN else None
