"""What a device says of itself. Sizes in bytes; None where nothing on the machine can tell."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MemoryKind(StrEnum):
    """How the GPU gets its memory."""

    DISCRETE = "discrete"  # a card with memory of its own
    CARVE_OUT = "carve-out"  # a fixed part of the RAM, chosen in the firmware; a change needs a reboot
    UNIFIED = "unified"  # one pool, shared
    NONE = "none"  # no GPU that an engine could use


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    vendor: str  # "amd", "nvidia", "intel", "apple", or the PCI vendor id
    driver: str | None = None
    vram_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class EngineFound:
    """An engine on the device: what it is, and what its adapter can do with it."""

    name: str
    version: str
    runtimes: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Device:
    """One machine. ``device_id`` is a UUID kept in a file on it, the same across reboots and addresses."""

    device_id: str
    name: str
    boot_id: str
    os: str
    kernel: str
    arch: str
    cpu: str
    physical_cores: int | None
    logical_cores: int | None
    ram_bytes: int
    memory_kind: MemoryKind
    gpus: tuple[Gpu, ...] = ()
    dedicated_vram_bytes: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    engines: tuple[EngineFound, ...] = ()
    python: str = ""
    agent_version: str = ""
    fingerprint: str = ""  # hash of all that can change a figure: hardware, memory, kernel, driver, engine versions


def same_split(wanted_bytes: int, seen_bytes: int | None) -> bool:
    """Whether two sizes are one choice in a firmware's menu: it keeps up to 3 % or 64 MiB for itself. PURE"""
    return seen_bytes is not None and abs(wanted_bytes - seen_bytes) <= max(0.03 * wanted_bytes, 64 * 2**20)
