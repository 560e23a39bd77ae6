"""RAM and swap on Linux, from /proc/meminfo and /proc/vmstat."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from agents.clock import SystemClock
from agents.telemetry.sources.base import Missing, Quantity, Source, Value
from agents.telemetry.sources.files import HeldFile, Rate, number_in, scaled


class Memory:
    """``RAM_USED`` is what programs could not have: total less what the kernel calls available."""

    name = "memory"

    def __init__(self, meminfo: HeldFile, vmstat: HeldFile | None, now_ns: Callable[[], int]) -> None:
        self._meminfo = meminfo
        self._vmstat = vmstat
        self._now_ns = now_ns
        self._pages_in = Rate()
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def read(self) -> Sequence[Value]:
        meminfo = self._meminfo.data()
        total = scaled(field(meminfo, b"MemTotal:"), 1024)
        values: list[Value] = [
            (Quantity.RAM_USED, _less(total, scaled(field(meminfo, b"MemAvailable:"), 1024))),
            (Quantity.RAM_TOTAL, total),
            (Quantity.SWAP_USED, scaled(_less(field(meminfo, b"SwapTotal:"), field(meminfo, b"SwapFree:")), 1024)),
        ]
        if self._vmstat is not None:
            pages = field(self._vmstat.all_data(), b"pswpin")
            values.append((Quantity.SWAP_IN, scaled(self._pages_in.step(pages, self._now_ns()), self._page_bytes)))
        return values

    def close(self) -> None:
        self._meminfo.close()
        if self._vmstat is not None:
            self._vmstat.close()


def field(data: bytes | None, name: bytes) -> float | None:
    """The number in the line ``MemTotal:  16 kB`` or ``pswpin 16`` of this name. PURE"""
    start = (b"\n" + (data or b"")).find(b"\n" + name + b" ")  # without parsing all 170 lines
    words = data[start:].split(None, 2)[1:2] if data and start >= 0 else ()
    return number_in(words[0]) if words else None


def _less(whole: float | None, part: float | None) -> float | None:
    return None if whole is None or part is None else whole - part


class MemoryFinder:
    name = "memory"

    def __init__(self, now_ns: Callable[[], int] = SystemClock.monotonic_ns) -> None:
        self._now_ns = now_ns

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:
        meminfo = HeldFile.open(root / "proc/meminfo")
        if meminfo is None:
            return (), ()  # not Linux: see psutil
        return (Memory(meminfo, HeldFile.open(root / "proc/vmstat"), self._now_ns),), ()
