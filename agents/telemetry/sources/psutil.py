"""CPU, RAM, battery and the engine's processes where there is no /proc: macOS and Windows, by psutil."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from agents.clock import SystemClock
from agents.telemetry.sources.base import Missing, Quantity, Source, Value
from agents.telemetry.sources.files import Rate, scaled


class PsutilSource:
    """Processes are looked for anew at each reading, which takes milliseconds."""

    name = "psutil"

    def __init__(self, now_ns: Callable[[], int] = SystemClock.monotonic_ns) -> None:
        self._now_ns = now_ns
        self._has_read = False
        self._swapped_in = Rate()
        self._followed: tuple[int, ...] = ()
        self._rates: dict[int, Rate] = {}

    def follow(self, pids: Sequence[int]) -> None:
        self._followed, self._rates = tuple(pids), {}

    def read(self) -> Sequence[Value]:
        at_ns = self._now_ns()
        values: list[Value] = []
        for part in (self._cpu, lambda: self._memory(at_ns), self._battery, lambda: self._engine(at_ns)):
            with suppress(Exception):  # psutil raises OSError, its own errors, and on new systems others
                values += part()
        return values

    def _cpu(self) -> list[Value]:
        import psutil

        share, first = psutil.cpu_percent(interval=None), not self._has_read
        self._has_read = True
        return [(Quantity.CPU_BUSY, None if first else share)]  # the first means nothing

    def _memory(self, at_ns: int) -> list[Value]:
        import psutil

        ram, swap = psutil.virtual_memory(), psutil.swap_memory()
        return [
            (Quantity.RAM_USED, float(ram.total - ram.available)),
            (Quantity.RAM_TOTAL, float(ram.total)),
            (Quantity.SWAP_USED, float(swap.used)),
            (Quantity.SWAP_IN, self._swapped_in.step(swap.sin, at_ns)),
        ]

    def _battery(self) -> list[Value]:
        import psutil

        battery = psutil.sensors_battery()
        if battery is None:
            return []
        plugged = None if battery.power_plugged is None else float(battery.power_plugged)
        return [(Quantity.BATTERY_CHARGE, float(battery.percent)), (Quantity.ON_MAINS, plugged)]

    def _engine(self, at_ns: int) -> list[Value]:
        import psutil

        if not self._followed:
            return []
        processes: dict[int, psutil.Process] = {}
        for pid in self._followed:
            with suppress(psutil.Error):
                parent = psutil.Process(pid)
                processes |= {each.pid: each for each in (parent, *parent.children(recursive=True))}
        rates: list[float | None] = []
        resident = 0
        for pid, process in processes.items():
            with suppress(psutil.Error):
                times = process.cpu_times()
                rates.append(self._rates.setdefault(pid, Rate()).step(times.user + times.system, at_ns))
                resident += process.memory_info().rss
        known = [rate for rate in rates if rate is not None]
        busy = scaled(sum(known) if known else None, 100)
        return [(Quantity.ENGINE_CPU, busy), (Quantity.ENGINE_RAM, float(resident) if rates else None)]

    def close(self) -> None:
        pass


class PsutilFinder:
    name = "psutil"

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:
        return ((), ()) if (root / "proc/stat").exists() else ((PsutilSource(),), ())
