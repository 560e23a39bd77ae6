"""What a device says of itself. Sizes in bytes; None where nothing on the machine can tell."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agents.units import format_size


class MemoryKind(StrEnum):
    """How the GPU gets its memory."""

    DISCRETE = "discrete"  # a card with memory of its own
    CARVE_OUT = "carve-out"  # a fixed part of the RAM, chosen in the firmware; a change needs a reboot
    UNIFIED = "unified"  # one pool, shared
    NONE = "none"  # no GPU that an engine could use


class StateSource(StrEnum):
    """Who says in which state a machine is."""

    SEEN = "seen"  # read from the machine
    STATED = "stated"  # the operator said so; nothing on the machine can tell
    HELD = "held"  # set by the agent, read back, restored afterwards


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    vendor: str  # "amd", "nvidia", "intel", "apple", or the PCI vendor id
    driver: str | None = None
    vram_bytes: int | None = None
    firmware: str | None = None


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
    product: str | None = None  # maker and product, as the firmware says
    bios: str | None = None
    ram_modules: str | None = None  # kind and speed of the memory modules
    npus: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    dedicated_vram_bytes: int | None = None
    split_source: StateSource | None = None  # of dedicated_vram_bytes
    power_limit_w: float | None = None
    power_source: StateSource | None = None  # of power_limit_w
    memory_bandwidth_bytes_per_s: float | None = (
        None  # most that the fastest memory gives; stated, or the maker's figure
    )
    carveout_options_bytes: tuple[int, ...] = ()  # sizes that the firmware lets the system choose, if any
    sets_split: bool = False  # the owner allows the agent to choose one of them and to reboot
    power_methods: tuple[str, ...] = ()  # by which the owner allows the agent to hold a power limit
    power_profile: str | None = None  # named by the firmware or the system; nobody says how many watts it is
    power_profiles: tuple[str, ...] = ()  # those to choose from
    sets_profile: bool = False  # the owner allows the agent to choose one
    labels: tuple[tuple[str, str], ...] = ()
    engines: tuple[EngineFound, ...] = ()
    python: str = ""
    agent_version: str = ""
    fingerprint: str = ""  # hash of all that can change a figure: hardware, memory, kernel, driver, engine versions


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a device that is there takes no job for now. ``needs_reboot``: nothing else ends it; else it may pass."""

    why: str
    needs_reboot: bool = False


def same_power(wanted_w: float, seen_w: float | None) -> bool:
    """Whether two limits are one: half a watt is what tools round to. PURE"""
    return seen_w is not None and abs(wanted_w - seen_w) <= 0.5


def why_no_profile(wanted: str, device: Device) -> str | None:
    """Why a cell that asks for this power profile would be refused on ``device``; None: it would not. PURE"""
    if device.sets_profile:
        have = ", ".join(device.power_profiles)
        return (
            None if wanted in device.power_profiles else f"{device.name} has power profiles {have}; asked for: {wanted}"
        )
    if wanted == device.power_profile:
        return None
    now = "cannot be seen" if device.power_profile is None else f"is {device.power_profile}"
    return f"the power profile of {device.name} {now}, and its owner allows no method to hold one; asked for: {wanted}"


def same_split(wanted_bytes: int, seen_bytes: int | None) -> bool:
    """Whether two sizes are one choice in a firmware's menu: it keeps up to 3 % or 64 MiB for itself. PURE"""
    return seen_bytes is not None and abs(wanted_bytes - seen_bytes) <= max(0.03 * wanted_bytes, 64 * 2**20)


def why_no_split(wanted_bytes: int, device: Device) -> str | None:
    """Why this split can never be had on ``device``; None where the firmware's setting may bring it. PURE"""
    if same_split(wanted_bytes, device.dedicated_vram_bytes):
        return None
    asked = f"asked for: {format_size(wanted_bytes)}"
    if device.memory_kind is not MemoryKind.CARVE_OUT:
        kind = {
            MemoryKind.NONE: "has no GPU that shares its memory, as far as it can be seen",
            MemoryKind.DISCRETE: "has a card with memory of its own",
            MemoryKind.UNIFIED: "has one pool of memory, without a split",
        }[device.memory_kind]
        return f"dedicated VRAM of {device.name} cannot be chosen: it {kind}; {asked}"
    options = device.carveout_options_bytes
    if options and not any(same_split(wanted_bytes, option) for option in options):
        offered = ", ".join(map(format_size, options))
        return f"the firmware of {device.name} offers dedicated VRAM of {offered}; {asked}"
    return None
