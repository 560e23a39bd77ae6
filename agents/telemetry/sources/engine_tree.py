"""The engine's processes: those that are watched and all their descendants, from /proc."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.telemetry.sources.files import HeldFile, whole_in

RESCAN_S = 2.0  # reading every process's parent takes about 10 us a process


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """What ``/proc/PID/stat`` holds of a process; times in clock ticks, memory in pages."""

    parent: int
    cpu_ticks: int
    resident_pages: int


def parse_stat(data: bytes | None) -> ProcessStat | None:
    """None for what is no such line: a process that ended in mid-read. PURE"""
    if not data:
        return None
    fields = data.rpartition(b")")[2].split()  # the name before it may hold spaces and brackets
    parent, user, system, pages = (whole_in(b"".join(fields[at : at + 1])) for at in (1, 11, 12, 21))
    if parent is None or user is None or system is None or pages is None:
        return None
    return ProcessStat(parent, user + system, pages)


def descendants(pids: Iterable[int], parents: dict[int, int]) -> set[int]:
    """Those of ``pids`` that live, and their children's children. ``parents``: child to parent. PURE"""
    children: dict[int, list[int]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    pending = [pid for pid in pids if pid in parents]
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending += children.get(pid, ())
    return found


class EngineTree:
    """The pids of the engine's tree, looked for anew every ``RESCAN_S``."""

    def __init__(self, root: Path) -> None:
        self._proc = root / "proc"
        self._followed: tuple[int, ...] = ()
        self._scanned_ns: int | None = None
        self._pids: frozenset[int] = frozenset()

    @property
    def follows(self) -> bool:
        return bool(self._followed)

    def follow(self, pids: Sequence[int]) -> None:
        self._followed = tuple(pids)
        self._scanned_ns, self._pids = None, frozenset()

    def pids(self, at_ns: int) -> frozenset[int]:
        due = self._scanned_ns is None or at_ns - self._scanned_ns >= RESCAN_S * 1e9
        if self._followed and due:
            self._scanned_ns = at_ns
            self._pids = frozenset(descendants(self._followed, self._parents()))
        return self._pids

    def _parents(self) -> dict[int, int]:
        parents = {}
        for pid in pids_of(self._proc):
            if (stat := parse_stat(_once(self._proc / str(pid) / "stat"))) is not None:
                parents[pid] = stat.parent
        return parents


def pids_of(proc: Path) -> list[int]:
    try:
        return [int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal()]
    except OSError:
        return []


def _once(path: Path) -> bytes | None:
    file = HeldFile.open(path)
    if file is None:
        return None
    try:
        return file.data()
    finally:
        file.close()
