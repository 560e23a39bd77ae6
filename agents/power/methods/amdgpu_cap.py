"""The power cap of AMD graphics cards, hwmon ``power1_cap`` of amdgpu. Not yet tried on hardware.

Documents: Documentation/gpu/amdgpu/thermal.rst; drivers/gpu/drm/amd/pm/amdgpu_pm.c: microwatts, of which the driver
keeps whole watts; what is out of ``power1_cap_min`` to ``power1_cap_max`` is refused with EINVAL. APUs have no cap, but
for the Steam Deck's, which has a second one, ``power2_cap``, for short bursts (fastPPT); there both are set.
"""

from __future__ import annotations

from pathlib import Path

from agents.power.methods.base import Levels, MethodKind, PowerMethod, bounds_of
from agents.power.methods.sysfs import MicrowattFiles, hwmon_folders, seen_w, why_not_writable

CAPS = ("power1_cap", "power2_cap")


def find(root: Path, most_w: float | None) -> PowerMethod | str:
    files, least, most = {}, [], []
    for place, folder in hwmon_folders(root, "amdgpu"):
        for cap in CAPS:
            if not (folder / cap).exists():
                continue
            files[f"{place}/{cap}"] = folder / cap
            if cap == CAPS[0]:
                least.append(seen_w(folder / f"{cap}_min") or 0.0)
                most.append(seen_w(folder / f"{cap}_max"))
    if not files:
        return "no amdgpu card here has a power1_cap (APUs have none)"
    if why := why_not_writable(files):
        return why
    if None in most:
        return "the card tells no power1_cap_max, so nothing says what it can take"

    def range_of(levels: Levels) -> tuple[float, float]:  # noqa: ARG001  the card has bounds of its own
        return bounds_of(max(least), min(each for each in most if each), 0.0, most_w)

    return MicrowattFiles("amdgpu_cap", files, range_of)


def look(root: Path) -> float | None:
    """The cap of the first card that has one."""
    caps = (seen_w(folder / CAPS[0]) for _, folder in hwmon_folders(root, "amdgpu"))
    return next((cap for cap in caps if cap), None)


AMDGPU_CAP = MethodKind("amdgpu_cap", find, look, of="gpu")
