"""The power limit of Intel graphics cards, hwmon of xe and i915. Not yet tried on hardware.

Documents: Documentation/ABI/testing/sysfs-driver-intel-xe-hwmon and -i915-hwmon. Microwatts; ``power1_max`` is the
card's sustained limit (PL1), ``power2_max`` the package's, ``power1_cap`` and ``power2_cap`` those for bursts (PL2, xe
since 6.15). Which of them there are differs from card to card and from kernel to kernel; integrated graphics have none.
0 means no limit, and writing 0 removes it, which not every card allows: so 0 is never written, and where it stands
nothing is held. The driver may clamp what it reads back to what the card can; that is reported as a limit not held.
"""

from __future__ import annotations

from pathlib import Path

from agents.power.methods.base import Levels, LimitNotHeld, MethodKind, PowerMethod, bounds_of
from agents.power.methods.sysfs import MicrowattFiles, hwmon_folders, seen_w, why_not_writable

DRIVERS = ("xe", "i915")
SUSTAINED = ("power1_max", "power2_max")
BURST = ("power1_cap", "power2_cap")


def find(root: Path, most_w: float | None) -> PowerMethod | str:
    folders = hwmon_folders(root, *DRIVERS)
    files = {
        f"{place}/{name}": folder / name
        for place, folder in folders
        for name in (*SUSTAINED, *BURST)
        if (folder / name).exists()
    }
    if not files:
        return "no card of xe or i915 here has a power1_max (integrated graphics have none)"
    if why := why_not_writable(files):
        return why
    rated = [watts for _, folder in folders for n in (1, 2) if (watts := seen_w(folder / f"power{n}_rated_max"))]

    def range_of(levels: Levels) -> tuple[float, float]:
        off = [name for name, level in levels.items() if not level]
        if off:
            raise LimitNotHeld(f"xe_cap: {off[0]} is 0, no limit, and may not be had back: set one by hand first")
        stands = min(level for level in levels.values() if isinstance(level, float))
        return bounds_of(None, min(rated, default=None), stands, most_w)

    return MicrowattFiles("xe_cap", files, range_of)


def look(root: Path) -> float | None:
    """The sustained limit of the first card that has one."""
    seen = (seen_w(folder / name) for _, folder in hwmon_folders(root, *DRIVERS) for name in SUSTAINED)
    return next((watts for watts in seen if watts), None)


XE_CAP = MethodKind("xe_cap", find, look, of="gpu")
