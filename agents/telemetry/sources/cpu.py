"""CPU on Linux: how busy, clocks, heat; and what of it and of RAM the engine's processes take."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from agents.clock import SystemClock
from agents.telemetry.sources.base import Missing, Quantity, Source, Value
from agents.telemetry.sources.drm import labelled
from agents.telemetry.sources.engine_tree import EngineTree, ProcessStat, parse_stat
from agents.telemetry.sources.files import LEAST_SPAN_S, HeldFile, Rate, first_line, scaled, whole_in

_SENSORS = ("k10temp", "zenpower", "coretemp", "cpu_thermal")  # AMD, AMD, Intel, Arm boards
_LABELS = ("Tdie", "Package id 0", "Tctl")  # Tctl may carry an offset, Tdie none
Ticks = tuple[int, int]
"""Busy and all ticks since the boot, of all cores together."""


class Cpu:
    name = "cpu"

    def __init__(self, stat: HeldFile, root: Path) -> None:
        cores = root / "sys/devices/system/cpu"
        self._stat = stat
        self._before: Ticks | None = None
        self._busy: float | None = None
        self._least_ticks = LEAST_SPAN_S * os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
        paths = sorted(cores.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._clocks = [file for path in paths if (file := HeldFile.open(path)) is not None]
        self._temperature = _temperature(root)
        self._throttle = HeldFile.open(cores / "cpu0/thermal_throttle/package_throttle_count")
        self._throttle_before: float | None = None

    @property
    def has_clocks(self) -> bool:
        return bool(self._clocks)

    @property
    def has_temperature(self) -> bool:
        return self._temperature is not None

    def read(self) -> Sequence[Value]:
        values: list[Value] = [(Quantity.CPU_BUSY, self._share(parse_ticks(self._stat.data())))]
        if self._clocks:
            known = [khz for file in self._clocks if (khz := file.number()) is not None]
            values.append((Quantity.CPU_CLOCK, sum(known) / len(known) * 1e3 if known else None))
            values.append((Quantity.CPU_CLOCK_TOP, max(known) * 1e3 if known else None))
        if self._temperature is not None:
            values.append((Quantity.CPU_TEMPERATURE, scaled(self._temperature.number(), 1e-3)))
        if self._throttle is not None:
            before, self._throttle_before = self._throttle_before, self._throttle.number()
            is_known = before is not None and self._throttle_before is not None
            values.append((Quantity.THROTTLED_HEAT, float(self._throttle_before != before) if is_known else None))
        return values

    def _share(self, now: Ticks | None) -> float | None:
        before = self._before
        if now is None:
            return None
        if before is None or now[1] - before[1] >= self._least_ticks:
            self._before, self._busy = now, busy_between(before, now)
        return self._busy

    def close(self) -> None:
        for file in (self._stat, *self._clocks, self._temperature, self._throttle):
            if file is not None:
                file.close()


def parse_ticks(data: bytes | None) -> Ticks | None:
    """The first line of ``/proc/stat``. Guests' time stands in ``user`` and ``nice`` as well: left out. PURE"""
    name, *words = (data or b"").split(b"\n", 1)[0].split() or [b""]
    fields = [whole_in(word) for word in words[:8]]  # user nice system idle iowait irq softirq steal
    ticks = [tick for tick in fields if tick is not None]
    if name != b"cpu" or len(ticks) < max(5, len(fields)):
        return None
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def busy_between(before: Ticks | None, now: Ticks | None) -> float | None:
    """In %. Waiting for a disk counts as idle; its counter may go back, so the share is kept within 0 and 100. PURE"""
    if before is None or now is None or now[1] <= before[1]:
        return None
    return min(100.0, max(0.0, 100 * (now[0] - before[0]) / (now[1] - before[1])))


def _temperature(root: Path) -> HeldFile | None:
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if first_line(folder / "name") not in _SENSORS:
            continue
        channels = labelled(folder, "temp")
        channel = next((channels[label] for label in _LABELS if label in channels), "temp1")
        if (file := HeldFile.open(folder / f"{channel}_input")) is not None:
            return file
    return None


class EngineUse:
    """CPU and RAM of the engine's process tree; nothing until it knows which that is.

    A process counts from its second reading on. Ticks are 10 ms: over 200 ms one process is read in steps of 5 %.
    """

    name = "engine"

    def __init__(self, root: Path, now_ns: Callable[[], int]) -> None:
        self._proc = root / "proc"
        self._tree = EngineTree(root)
        self._now_ns = now_ns
        self._files: dict[int, HeldFile] = {}
        self._rates: dict[int, Rate] = {}
        self._ticks_a_second = os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def follow(self, pids: Sequence[int]) -> None:
        self._tree.follow(pids)

    def read(self) -> Sequence[Value]:
        if not self._tree.follows:
            self.close()
            return ()
        at_ns = self._now_ns()
        stats = self._stats(self._tree.pids(at_ns))
        rates = [self._rates.setdefault(pid, Rate()).step(stat.cpu_ticks, at_ns) for pid, stat in stats.items()]
        known = [rate for rate in rates if rate is not None]
        cpu = sum(known) / self._ticks_a_second * 100 if known else None
        resident = sum(stat.resident_pages for stat in stats.values()) * self._page_bytes
        return [(Quantity.ENGINE_CPU, cpu), (Quantity.ENGINE_RAM, float(resident) if stats else None)]

    def _stats(self, pids: frozenset[int]) -> dict[int, ProcessStat]:
        found = {}
        for pid in pids:
            if pid not in self._files and (file := HeldFile.open(self._proc / str(pid) / "stat")) is not None:
                self._files[pid] = file
            stat = parse_stat(self._files[pid].data()) if pid in self._files else None
            if stat is not None:
                found[pid] = stat
        for gone in self._files.keys() - found.keys():
            self._files.pop(gone).close()
            self._rates.pop(gone, None)
        return found

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._rates.clear()


class CpuFinder:
    name = "cpu"

    def __init__(self, now_ns: Callable[[], int] = SystemClock.monotonic_ns) -> None:
        self._now_ns = now_ns

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:
        stat = HeldFile.open(root / "proc/stat")
        if stat is None:
            return (), ()  # not Linux: see psutil
        cpu = Cpu(stat, root)
        missing = []
        if not cpu.has_clocks:
            missing.append(Missing(self.name, "no clocks: no cpufreq below /sys/devices/system/cpu, as in most VMs"))
        if not cpu.has_temperature:
            todo = "load the module k10temp (AMD) or coretemp (Intel); a VM shows none"
            missing.append(Missing(self.name, f"no temperature: no sensor called {', '.join(_SENSORS)}", todo))
        return (cpu, EngineUse(root, self._now_ns)), missing
