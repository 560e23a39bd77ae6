"""What every telemetry source is, and the words for what they read.

A source is found once, when a job process starts, and read again and again by the sampler. It holds open what it can
(files, a library's handles), so that one reading costs microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable


class Quantity(StrEnum):
    """What a reading is of, and its unit. Shares are of one device's or the whole machine's capacity."""

    unit: str

    def __new__(cls, value: str, unit: str = "") -> Quantity:
        quantity = str.__new__(cls, value)
        quantity._value_, quantity.unit = value, unit
        return quantity

    GPU_BUSY = "gpu_busy", "%"
    COPY_BUSY = "copy_busy", "%"  # the engine that moves bytes between RAM and VRAM
    COMPUTE_BUSY = "compute_busy", "%"
    GRAPHICS_BUSY = "graphics_busy", "%"  # the 3D engine; Vulkan engines may compute on it
    VIDEO_BUSY = "video_busy", "%"  # decoder or encoder, the busier one
    ENGINE_COPY_BUSY = "engine_copy_busy", "%"  # these four: the part of the engine's process tree alone
    ENGINE_COMPUTE_BUSY = "engine_compute_busy", "%"
    ENGINE_GRAPHICS_BUSY = "engine_graphics_busy", "%"
    ENGINE_VIDEO_BUSY = "engine_video_busy", "%"
    MEMORY_BUSY = "memory_busy", "%"  # the GPU's memory controller
    GPU_ASLEEP = "gpu_asleep", "%"  # share of the time that the GPU was in its deepest idle state
    VRAM_USED = "vram_used", "bytes"
    VRAM_TOTAL = "vram_total", "bytes"
    GTT_USED = "gtt_used", "bytes"  # RAM that the GPU borrows (Windows: shared GPU memory)
    GTT_TOTAL = "gtt_total", "bytes"
    ENGINE_VRAM = "engine_vram", "bytes"  # of the engine's process tree
    ENGINE_GTT = "engine_gtt", "bytes"
    RAM_USED = "ram_used", "bytes"
    RAM_TOTAL = "ram_total", "bytes"
    SWAP_USED = "swap_used", "bytes"
    SWAP_IN = "swap_in", "bytes/s"  # bytes a second
    TO_GPU = "to_gpu", "bytes/s"  # bytes a second over PCIe, into the GPU
    FROM_GPU = "from_gpu", "bytes/s"
    CPU_BUSY = "cpu_busy", "%"  # of all cores together
    ENGINE_CPU = "engine_cpu", "%"  # of one core: 800 is eight cores
    ENGINE_RAM = "engine_ram", "bytes"  # resident, of the engine's process tree
    CPU_CLOCK = "cpu_clock", "Hz"  # mean of all cores
    CPU_CLOCK_TOP = "cpu_clock_top", "Hz"  # of the fastest core
    GPU_CLOCK = "gpu_clock", "Hz"
    MEMORY_CLOCK = "memory_clock", "Hz"
    CPU_TEMPERATURE = "cpu_temperature", "°C"
    GPU_TEMPERATURE = "gpu_temperature", "°C"
    HOTSPOT_TEMPERATURE = "hotspot_temperature", "°C"  # the hottest place of the GPU's die
    MEMORY_TEMPERATURE = "memory_temperature", "°C"  # the GPU's own memory
    GPU_POWER = "gpu_power", "W"
    PACKAGE_POWER = "package_power", "W"  # CPU, and on an APU the GPU with it
    SYSTEM_POWER = "system_power", "W"  # all of the machine, as its own sensor reads it
    GPU_ENERGY = "gpu_energy", "J"  # since the driver was loaded: only differences mean something
    BATTERY_POWER = "battery_power", "W"  # out of the battery; negative while it charges
    BATTERY_CHARGE = "battery_charge", "%"
    ON_MAINS = "on_mains", ""  # 1 or 0
    POWER_LIMIT = "power_limit", "W"
    THROTTLED_POWER = "throttled_power", ""  # 1 while clocks are held down for this reason, else 0
    THROTTLED_HEAT = "throttled_heat", ""
    THROTTLED_OTHER = "throttled_other", ""
    THROTTLED_UNKNOWN = "throttled_untold", ""  # for a reason that the driver does not state: power, most likely


Value = tuple[Quantity, float | None]
"""In the quantity's unit; None where it cannot be known just now (the kernel answered EBUSY, nonsense, nothing)."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A source, or part of one, that this machine does not have or does not show: why, and what to do about it.

    ``todo`` is empty where nothing can be done: a machine without such hardware.
    """

    source: str
    why: str
    todo: str = ""


class Source(Protocol):
    """One sensor of this machine. ``name``: the kind, and the device where there are several, ``amdgpu:card1``."""

    name: str

    def read(self) -> Sequence[Value]:
        """What it shows now. Never raises; rates are from the reading before, so the first has None for them."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class FollowsEngine(Protocol):
    """A source that also reads the engine's processes, which are known only once the engine runs."""

    def follow(self, pids: Sequence[int]) -> None:
        """From now on these processes and their descendants; none for ``()``."""
        ...


@runtime_checkable
class Timestamped(Protocol):
    """A source whose sensor sends values when it likes. ``at_ns``: of the values read last; None where of now."""

    at_ns: int | None


@runtime_checkable
class AveragesPower(Protocol):
    """A source whose power is the mean since its reading before, and not of a moment: energy is summed from steps."""

    averages_power: Literal[True]


class SourceFinder(Protocol):
    """Finds the sources of one kind on this machine. It stands in ``SOURCES``."""

    name: str

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:
        """The sources of this kind, and what of it is missing, and why. ``root`` stands for ``/``."""
        ...
