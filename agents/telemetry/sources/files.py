"""Small files of /sys and /proc: kept open, read again from their start, and counters turned into rates."""

from __future__ import annotations

import os
from pathlib import Path

CHUNK_BYTES = 65536
LEAST_SPAN_S = 0.05
"""Counters move in steps of 1 to 10 ms: the rate over a shorter span is noise, so the one before stands."""


class HeldFile:
    """One of the kernel's files, open for as long as it is sampled: a reading is one system call or two.

    What cannot be read just now (EBUSY, EPERM, EIO, a device or process that is gone) is None, never an exception.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: Path) -> None:
        """Raises OSError where it cannot be opened."""
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    @staticmethod
    def open(path: Path) -> HeldFile | None:
        """None where the file is missing or may not be read."""
        try:
            return HeldFile(path)
        except (OSError, ValueError):
            return None

    def data(self) -> bytes | None:
        """The start of the file; enough for every file of /sys and for what fits one page of /proc."""
        if self._fd < 0:
            return None
        try:
            return os.pread(self._fd, CHUNK_BYTES, 0)
        except OSError:
            return None

    def all_data(self) -> bytes | None:
        """The whole file: the kernel gives long ones of /proc a page at a time."""
        parts: list[bytes] = []
        while True:
            try:
                part = os.pread(self._fd, CHUNK_BYTES, sum(map(len, parts))) if self._fd >= 0 else None
            except OSError:
                return None
            if part is None:
                return None
            if not part:
                return b"".join(parts)
            parts.append(part)

    def number(self) -> float | None:
        """The one number that the file holds."""
        return number_in(self.data())

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Rate:
    """What a counter gained a second since the reading before.

    A gap in the readings is bridged: the rate after it is the mean over the gap. A counter that went back gives None,
    unless it is one that wraps at ``wraps_at``; and so does one that can have wrapped twice, where it is known that it
    gains ``most`` a second. Within ``LEAST_SPAN_S`` the rate before stands.
    """

    __slots__ = ("_before", "_most", "_rate", "_wraps_at")

    def __init__(self, wraps_at: float | None = None, most: float = 0.0) -> None:
        self._wraps_at = wraps_at
        self._most = most
        self._before: tuple[float, int] | None = None
        self._rate: float | None = None

    def step(self, total: float | None, at_ns: int) -> float | None:
        if total is None:
            return None
        if self._before is not None and at_ns - self._before[1] < LEAST_SPAN_S * 1e9:
            return self._rate
        before, self._before = self._before, (total, at_ns)
        self._rate = None if before is None else self._over(total - before[0], at_ns - before[1])
        return self._rate

    def _over(self, gained: float, span_ns: int) -> float | None:
        seconds = span_ns / 1e9
        if self._wraps_at is not None:
            if self._most * seconds >= self._wraps_at:
                return None
            if gained < 0:
                gained += self._wraps_at
        return gained / seconds if gained >= 0 else None


def whole_in(data: bytes | None) -> int | None:
    """The whole number that these bytes are, spaces around it apart; none of the kernel's is longer than 40. PURE"""
    if data is None or len(data) > 40:
        return None
    try:
        return int(data)
    except ValueError:
        return None


def number_in(data: bytes | None) -> float | None:
    """The same as a float. PURE"""
    whole = whole_in(data)
    return None if whole is None else float(whole)


def scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def first_line(path: Path) -> str:
    """The file's first line without spaces around it; empty where it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline(4096).strip()
    except OSError:
        return ""
