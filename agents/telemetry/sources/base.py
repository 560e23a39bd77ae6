"""What every telemetry source is, and the words for what they read.

A source is found once, when a job process starts, and read again and again by the sampler. It holds open what it can
(files, a library's handles), so that one reading costs microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable


class Quantity(StrEnum):
    """What a reading is of; its unit is in ``UNITS``. Shares are of one device's or the whole machine's capacity."""

    GPU_BUSY = "gpu_busy"
    COPY_BUSY = "copy_busy"  # the engine that moves bytes between RAM and VRAM
    COMPUTE_BUSY = "compute_busy"
    GRAPHICS_BUSY = "graphics_busy"  # the 3D engine; Vulkan engines may compute on it
    VIDEO_BUSY = "video_busy"  # decoder or encoder, the busier one
    ENGINE_COPY_BUSY = "engine_copy_busy"  # these four: the part of the engine's process tree alone
    ENGINE_COMPUTE_BUSY = "engine_compute_busy"
    ENGINE_GRAPHICS_BUSY = "engine_graphics_busy"
    ENGINE_VIDEO_BUSY = "engine_video_busy"
    MEMORY_BUSY = "memory_busy"  # the GPU's memory controller
    GPU_ASLEEP = "gpu_asleep"  # share of the time that the GPU was in its deepest idle state
    VRAM_USED = "vram_used"
    VRAM_TOTAL = "vram_total"
    GTT_USED = "gtt_used"  # RAM that the GPU borrows (Windows: shared GPU memory)
    GTT_TOTAL = "gtt_total"
    ENGINE_VRAM = "engine_vram"  # of the engine's process tree
    ENGINE_GTT = "engine_gtt"
    RAM_USED = "ram_used"
    RAM_TOTAL = "ram_total"
    SWAP_USED = "swap_used"
    SWAP_IN = "swap_in"  # bytes a second
    TO_GPU = "to_gpu"  # bytes a second over PCIe, into the GPU
    FROM_GPU = "from_gpu"
    CPU_BUSY = "cpu_busy"  # of all cores together
    ENGINE_CPU = "engine_cpu"  # of one core: 800 is eight cores
    ENGINE_RAM = "engine_ram"  # resident, of the engine's process tree
    CPU_CLOCK = "cpu_clock"  # mean of all cores
    CPU_CLOCK_TOP = "cpu_clock_top"  # of the fastest core
    GPU_CLOCK = "gpu_clock"
    MEMORY_CLOCK = "memory_clock"
    CPU_TEMPERATURE = "cpu_temperature"
    GPU_TEMPERATURE = "gpu_temperature"
    HOTSPOT_TEMPERATURE = "hotspot_temperature"  # the hottest place of the GPU's die
    MEMORY_TEMPERATURE = "memory_temperature"  # the GPU's own memory
    GPU_POWER = "gpu_power"
    PACKAGE_POWER = "package_power"  # CPU, and on an APU the GPU with it
    SYSTEM_POWER = "system_power"  # all of the machine, as its own sensor tells it
    GPU_ENERGY = "gpu_energy"  # since the driver was loaded: only differences mean something
    BATTERY_POWER = "battery_power"  # out of the battery; negative while it charges
    BATTERY_CHARGE = "battery_charge"
    ON_MAINS = "on_mains"  # 1 or 0
    POWER_LIMIT = "power_limit"
    THROTTLED_POWER = "throttled_power"  # 1 while clocks are held down for this reason, else 0
    THROTTLED_HEAT = "throttled_heat"
    THROTTLED_OTHER = "throttled_other"
    THROTTLED_UNTOLD = "throttled_untold"  # for a reason that is not told: power, most likely


_BY_UNIT: dict[str, tuple[Quantity, ...]] = {
    "%": (
        *(Quantity.GPU_BUSY, Quantity.COPY_BUSY, Quantity.COMPUTE_BUSY, Quantity.MEMORY_BUSY),
        *(Quantity.GRAPHICS_BUSY, Quantity.VIDEO_BUSY, Quantity.GPU_ASLEEP),
        *(Quantity.ENGINE_COPY_BUSY, Quantity.ENGINE_COMPUTE_BUSY),
        *(Quantity.ENGINE_GRAPHICS_BUSY, Quantity.ENGINE_VIDEO_BUSY),
        *(Quantity.CPU_BUSY, Quantity.ENGINE_CPU, Quantity.BATTERY_CHARGE),
    ),
    "bytes": (
        *(Quantity.VRAM_USED, Quantity.VRAM_TOTAL, Quantity.GTT_USED, Quantity.GTT_TOTAL),
        *(Quantity.RAM_USED, Quantity.RAM_TOTAL, Quantity.SWAP_USED, Quantity.ENGINE_RAM),
        *(Quantity.ENGINE_VRAM, Quantity.ENGINE_GTT),
    ),
    "bytes/s": (Quantity.SWAP_IN, Quantity.TO_GPU, Quantity.FROM_GPU),
    "Hz": (Quantity.CPU_CLOCK, Quantity.CPU_CLOCK_TOP, Quantity.GPU_CLOCK, Quantity.MEMORY_CLOCK),
    "°C": (
        *(Quantity.CPU_TEMPERATURE, Quantity.GPU_TEMPERATURE),
        *(Quantity.HOTSPOT_TEMPERATURE, Quantity.MEMORY_TEMPERATURE),
    ),
    "J": (Quantity.GPU_ENERGY,),
    "W": (
        *(Quantity.GPU_POWER, Quantity.PACKAGE_POWER, Quantity.SYSTEM_POWER),
        *(Quantity.BATTERY_POWER, Quantity.POWER_LIMIT),
    ),
    "": (
        *(Quantity.ON_MAINS, Quantity.THROTTLED_POWER, Quantity.THROTTLED_HEAT),
        *(Quantity.THROTTLED_OTHER, Quantity.THROTTLED_UNTOLD),
    ),
}
UNITS: dict[Quantity, str] = {quantity: unit for unit, several in _BY_UNIT.items() for quantity in several}

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
    """A source that also reads the engine's processes, which are known only once it runs."""

    def watch(self, pids: Sequence[int]) -> None:
        """From now on these processes and their descendants; none for ``()``."""
        ...


@runtime_checkable
class TellsWhen(Protocol):
    """A source whose sensor speaks when it likes. ``at_ns``: of the values read last; None where they are of now."""

    at_ns: int | None


class Kind(Protocol):
    """A kind of source, as it stands in SOURCES."""

    name: str

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:
        """The sources of this kind on the machine, and what of it is missing. ``root`` stands for ``/``."""
        ...
