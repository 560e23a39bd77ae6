"""What a machine's firmware says of it: model, BIOS, memory modules; and its NPUs. Reads files that anybody may read.

DMI strings: the kernel's Documentation/ABI/testing/sysfs-class-dmi-id (serial numbers are for root; they are not
read). Memory modules: SMBIOS type 17, which udev's ``dmi_memory_id`` (systemd 248 and later) puts into its database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PLACEHOLDERS = {"", "to be filled by o.e.m.", "system product name", "default string", "system manufacturer", "none"}
NPU_DRIVERS = {"amdxdna": "AMD XDNA", "intel_vpu": "Intel NPU", "rocket": "Rockchip NPU"}
_MODULE = re.compile(r"E:MEMORY_DEVICE_(\d+)_([A-Z_]+)=(.*)")


@dataclass(frozen=True, slots=True)
class Modules:
    """The memory modules together. ``width_bits``: of the data, summed; None where a module does not state it."""

    kind: str  # LPDDR5, DDR5 ...
    speed_mts: int  # million transfers a second, as configured; the slowest of them
    count: int
    width_bits: int | None

    @property
    def words(self) -> str:
        return f"{self.count} x {self.kind} at {self.speed_mts} MT/s"

    @property
    def bandwidth_bytes_per_s(self) -> float | None:
        """Width times rate. Two modules on one channel count twice: an upper bound."""
        return None if self.width_bits is None else self.width_bits / 8 * self.speed_mts * 1e6


def product_of(root: Path) -> str | None:
    """Maker and product, ``ASUSTeK COMPUTER INC. ROG Flow Z13 GZ302EA``; None where the firmware says nothing."""
    words = [_dmi(root, "sys_vendor"), _dmi(root, "product_name")]
    names = [word for word in words if word.lower() not in PLACEHOLDERS]
    if len(names) == 2 and names[1].lower().startswith(names[0].lower()):
        names = names[1:]
    return " ".join(names) or None


def bios_of(root: Path) -> str | None:
    """Version and date."""
    return " ".join(word for word in (_dmi(root, "bios_version"), _dmi(root, "bios_date")) if word) or None


def _dmi(root: Path, name: str) -> str:
    try:
        return (root / "sys/class/dmi/id" / name).read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def modules_of(root: Path) -> Modules | None:
    """None where udev knows nothing (other systems, older ones, a container)."""
    try:
        text = (root / "run/udev/data/+dmi:id").read_text("utf-8", "replace")
    except OSError:
        return None
    modules: dict[str, dict[str, str]] = {}
    for number, key, value in _MODULE.findall(text):
        modules.setdefault(number, {})[key] = value.strip()
    there = [each for each in modules.values() if each.get("PRESENT") != "0" and _number(each.get("SIZE"))]
    speeds = [_number(each.get("CONFIGURED_SPEED_MTS")) or _number(each.get("SPEED_MTS")) for each in there]
    if not there or not all(speeds):
        return None
    widths = [_number(each.get("DATA_WIDTH")) for each in there]
    return Modules(
        kind=there[0].get("TYPE", "RAM"),
        speed_mts=min(speeds),
        count=len(there),
        width_bits=sum(widths) if all(widths) else None,
    )


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def npus_of(root: Path) -> tuple[str, ...]:
    """Accelerators that the kernel's ``accel`` subsystem knows, by their drivers."""
    found = []
    for device in sorted((root / "sys/class/accel").glob("accel*")):
        driver = device / "device/driver"
        if driver.exists():
            name = driver.resolve().name
            found.append(NPU_DRIVERS.get(name, name))
    return tuple(found)


def gpu_firmware(card: Path) -> str | None:
    """The video BIOS of a DRM card, ``/sys/class/drm/cardN``, where its driver shows it (amdgpu)."""
    try:
        return (card / "device/vbios_version").read_text("utf-8", "replace").strip() or None
    except OSError:
        return None
