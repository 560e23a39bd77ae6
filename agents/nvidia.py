"""NVIDIA's cards as their driver reports them: names, memory, driver, video BIOS, bandwidth. By NVML.

The kernel's DRM files hold a number at most, and under WSL2 nothing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from agents.contract.device import Gpu

CLOCK_MEMORY = 2  # nvml.h, NVML_CLOCK_MEM
TRANSFERS_A_CLOCK = (
    2  # both edges, of the clock that NVML reports: 10,501 MHz x 384 bits are the 1,008 GB/s of an RTX 4090
)


@dataclass(frozen=True, slots=True)
class NvidiaCard:
    gpu: Gpu
    bandwidth_bytes_per_s: float | None


def nvidia_cards(library: Any = None) -> tuple[NvidiaCard, ...]:
    """In NVML's order; none where there is no driver. Never raises. ``library`` stands for the module pynvml."""
    nvml = library or import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        driver = f"nvidia {_text(nvml.nvmlSystemGetDriverVersion())}"
        return tuple(_card(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError:
        return ()
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _card(nvml: Any, index: int, driver: str) -> NvidiaCard:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def value_of(function: str, *arguments: int) -> Any:
        try:
            return getattr(nvml, f"nvmlDeviceGet{function}")(handle, *arguments)
        except nvml.NVMLError:  # what this card or driver does not have
            return None

    memory, width, clock = value_of("MemoryInfo"), value_of("MemoryBusWidth"), value_of("MaxClockInfo", CLOCK_MEMORY)
    gpu = Gpu(
        name=_text(value_of("Name")) or f"NVIDIA GPU {index}",
        vendor="nvidia",
        driver=driver,
        vram_bytes=int(memory.total) if memory is not None else None,
        firmware=_text(value_of("VbiosVersion")) or None,
    )
    return NvidiaCard(gpu, width / 8 * clock * 1e6 * TRANSFERS_A_CLOCK if width and clock else None)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
