"""Intel's RAPL limits of the processor's package, through the kernel's powercap files. Not yet tried on hardware.

Documents: Documentation/power/powercap/powercap.rst, drivers/powercap/intel_rapl_common.c. A package has a
``long_term`` limit (PL1, tens of seconds) and a ``short_term`` one (PL2, milliseconds); both are set, so that nothing
runs above the limit for long. Laptops have the same limits once more in memory-mapped registers, ``intel-rapl-mmio``;
the lower one counts, so all are set. ``max_power_uw`` is the processor's rated power, not a bound: machines run above
it by their maker's choice. AMD's processors show energy here and have no limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agents.power.methods.base import Levels, MethodKind, PowerMethod, bounds_of
from agents.power.methods.sysfs import MicrowattFiles, seen_w, why_not_writable

NAMES = ("long_term", "short_term")
UNLIMITED_W = 1000.0
"""Firmware that leaves the limit to the other set of registers writes the largest number that fits (4095 W)."""


def find(root: Path, most_w: float | None) -> PowerMethod | str:
    zones = packages(root)
    if not zones:
        return "no power limit in /sys/class/powercap (AMD's processors, virtual machines and containers have none)"
    files = {key: path for zone in zones for key, path in constraints(zone).items()}
    for zone in zones:
        if text_of(zone / "enabled") == "0":
            return f"{zone.name} is not enabled: its firmware has locked it, or somebody has switched it off"
    if why := why_not_writable(files):
        return why
    rated = [watts for zone in zones if (watts := seen_w(zone / "constraint_0_max_power_uw"))]
    floors = [watts for zone in zones if (watts := seen_w(zone / "constraint_0_min_power_uw"))]

    def range_of(levels: Levels) -> tuple[float, float]:
        stands = [level for key, level in levels.items() if key.endswith(NAMES[0]) and isinstance(level, float)]
        return bounds_of(max(floors, default=None), None, max(min(stands, default=0.0), *rated, 0.0), most_w)

    return MicrowattFiles("rapl", files, range_of)


def look(root: Path) -> float | None:
    """The long-term limit that counts: the lowest of all sets of registers."""
    paths = [path for zone in packages(root) for key, path in constraints(zone).items() if key.endswith(NAMES[0])]
    seen = [watts for path in paths if (watts := seen_w(path)) and watts < UNLIMITED_W]
    return min(seen, default=None)


def packages(root: Path) -> list[Path]:
    """The zones of whole packages that have limits; not those of cores, graphics, memory, or the platform."""
    folder = root / "sys/class/powercap"
    zones = sorted([*folder.glob("intel-rapl:[0-9]*"), *folder.glob("intel-rapl-mmio:[0-9]*")])
    return [zone for zone in zones if text_of(zone / "name").startswith("package") and constraints(zone)]


def constraints(zone: Path) -> Mapping[str, Path]:
    """The limits of a zone by their names: ``intel-rapl:0/long_term``."""
    found = {}
    for name_file in sorted(zone.glob("constraint_[0-9]_name")):
        name = text_of(name_file)
        path = zone / name_file.name.replace("_name", "_power_limit_uw")
        if name in NAMES and path.exists():
            found[f"{zone.name}/{name}"] = path
    return found


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


RAPL = MethodKind("rapl", find, look, of="package")
