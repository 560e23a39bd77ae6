"""Energy of the CPU package from Linux's powercap, Intel and AMD: power as the counter's gain a second.

The kernel's Documentation/power/powercap/powercap.rst. Only top-level zones count: core, uncore and dram are parts of
their package, and ``intel-rapl-mmio`` shows the same package once more. ``psys``, where a firmware has it, is the
whole platform. Since 2020 the counter is root's alone, for it gives away what other processes compute.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agents.clock import SystemClock
from agents.telemetry.sources.base import Missing, Quantity, Source, Value
from agents.telemetry.sources.files import HeldFile, Rate, first_line, number_in, scaled

_ZONE = re.compile(r"intel-rapl:\d+")
ALLOW_TODO = "let the agent's group read energy_uj by a udev rule (docs/telemetry.md), or run the agent as root"


@dataclass(frozen=True, slots=True)
class Zone:
    energy: HeldFile
    rate: Rate
    limit: HeldFile | None  # the long-term limit; AMD has none


class Rapl:
    name = "rapl"
    averages_power: Literal[True] = True

    def __init__(self, packages: Sequence[Zone], platforms: Sequence[Zone], now_ns: Callable[[], int]) -> None:
        self._zones = {Quantity.PACKAGE_POWER: packages, Quantity.SYSTEM_POWER: platforms}
        self._now_ns = now_ns

    def read(self) -> Sequence[Value]:
        at_ns = self._now_ns()
        values: list[Value] = []
        for quantity, zones in self._zones.items():
            if zones:
                watts = [scaled(zone.rate.step(zone.energy.number(), at_ns), 1e-6) for zone in zones]
                values.append((quantity, _sum(watts)))
        limits = [zone.limit for zone in self._zones[Quantity.PACKAGE_POWER] if zone.limit is not None]
        if limits:
            values.append((Quantity.POWER_LIMIT, scaled(_sum([limit.number() for limit in limits]), 1e-6)))
        return values

    def close(self) -> None:
        for zone in (*self._zones[Quantity.PACKAGE_POWER], *self._zones[Quantity.SYSTEM_POWER]):
            zone.energy.close()
            if zone.limit is not None:
                zone.limit.close()


def _sum(values: Sequence[float | None]) -> float | None:
    """None where one part is not known: a part is not the whole."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _zone(folder: Path) -> Zone:
    """Raises OSError where the counter may not be read."""
    wraps_at = number_in(first_line(folder / "max_energy_range_uj").encode())
    first_limit = first_line(folder / "constraint_0_name") == "long_term"
    limit = HeldFile.open(folder / "constraint_0_power_limit_uw") if first_limit else None
    return Zone(HeldFile(folder / "energy_uj"), Rate(wraps_at), limit)


class RaplFinder:
    name = "rapl"

    def __init__(self, now_ns: Callable[[], int] = SystemClock.monotonic_ns) -> None:
        self._now_ns = now_ns

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:
        folders = [path for path in sorted((root / "sys/class/powercap").glob("*")) if _ZONE.fullmatch(path.name)]
        if not folders:
            todo = "load the module intel_rapl_msr; a VM has none" if (root / "proc/stat").exists() else ""
            return (), (Missing(self.name, "no /sys/class/powercap/intel-rapl:*", todo),)
        packages, platforms, missing = [], [], []
        for folder in folders:
            try:
                zone = _zone(folder)
            except PermissionError:
                missing.append(Missing(self.name, f"{folder / 'energy_uj'} is root's alone", ALLOW_TODO))
                continue
            except OSError as error:
                missing.append(Missing(self.name, f"{folder / 'energy_uj'}: {error.strerror or error}"))
                continue
            name = first_line(folder / "name")
            if name.startswith("package"):
                packages.append(zone)
            elif name == "psys":
                platforms.append(zone)
            else:
                zone.energy.close()
        sources = (Rapl(packages, platforms, self._now_ns),) if packages or platforms else ()
        return sources, missing[:1]  # all for the same reason
