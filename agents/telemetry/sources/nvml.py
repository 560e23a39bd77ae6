"""NVIDIA GPUs, by NVIDIA's library NVML. Needs the driver, no root; a source for each GPU, and one for its PCIe link.

What a GPU does not support (GB10: its memory) is not read again. Instant power comes as a field value. All of these
calls take microseconds, but for the energy counter where the GPU's firmware is asked for it: 3 to 15 ms on an H100
(driver 580.159). There it is left out, and energy is the integral of the power.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from agents.clock import SystemClock
from agents.telemetry.sources.base import Missing, Quantity, Source, Value
from agents.telemetry.sources.nvml_pcie import NvidiaLink, field_values

POWER_INSTANT = 186  # nvml.h, NVML_FI_DEV_POWER_INSTANT
TEMPERATURE_OF_GPU, CLOCK_SM, CLOCK_MEMORY = 0, 1, 2
DEAR_S = 0.001  # for one figure: the others would have its delay in their time stamps
TRIES = 3  # the first call may wake a GPU

# nvml.h, nvmlClocksEventReason*; GpuIdle (bit 0) holds nothing down
_POWER_BITS = 0x04 | 0x80  # SwPowerCap, HwPowerBrakeSlowdown
_HEAT_BITS = 0x20 | 0x40  # SwThermalSlowdown, HwThermalSlowdown
_OTHER_BITS = 0x02 | 0x10 | 0x100  # application clocks, sync boost, display clocks
_HW_SLOWDOWN = 0x08  # for power or heat, which other bits show, or for a reason outside

Reading = Callable[[], list[Value]]


def reasons(bits: int) -> list[Value]:
    """PURE"""
    slowed = bits & _HW_SLOWDOWN and not bits & (_POWER_BITS | _HEAT_BITS)
    return [
        (Quantity.THROTTLED_POWER, float(bool(bits & _POWER_BITS))),
        (Quantity.THROTTLED_HEAT, float(bool(bits & _HEAT_BITS))),
        (Quantity.THROTTLED_OTHER, float(bool(bits & _OTHER_BITS or slowed))),
    ]


class NvidiaGpu:
    """Each part of the readings is one call; one that the GPU does not support is dropped at the first try."""

    def __init__(self, library: Any, index: int, now_ns: Callable[[], int] = SystemClock.monotonic_ns) -> None:
        """Raises the library's error where the GPU cannot be had."""
        self.name = f"nvml:{index}"
        self._nvml = library
        self._now_ns = now_ns
        library.nvmlInit()  # counted by the library: one more for each source
        self._gpu = library.nvmlDeviceGetHandleByIndex(index)
        parts: dict[Reading, tuple[Quantity, ...]] = {
            self._utilization: (Quantity.GPU_BUSY, Quantity.MEMORY_BUSY),
            self._video: (Quantity.VIDEO_BUSY,),
            self._memory: (Quantity.VRAM_USED, Quantity.VRAM_TOTAL),
            self._power: (Quantity.GPU_POWER,),
            self._energy: (Quantity.GPU_ENERGY,),
            self._limit: (Quantity.POWER_LIMIT,),
            self._gpu_clock: (Quantity.GPU_CLOCK,),
            self._memory_clock: (Quantity.MEMORY_CLOCK,),
            self._temperature: (Quantity.GPU_TEMPERATURE,),
            self._throttled: (Quantity.THROTTLED_POWER, Quantity.THROTTLED_HEAT, Quantity.THROTTLED_OTHER),
        }
        self._parts = parts
        self.unsupported = self._drop_unsupported()
        self.dear_s = self._drop_dear()

    def _drop_unsupported(self) -> tuple[Quantity, ...]:
        dropped: list[Quantity] = []
        for part, quantities in list(self._parts.items()):
            try:
                part()
            except self._nvml.NVMLError as error:
                if getattr(error, "value", None) == self._nvml.NVML_ERROR_NOT_SUPPORTED:
                    dropped += quantities
                    del self._parts[part]
        return tuple(dropped)

    def _drop_dear(self) -> float | None:
        """How long the energy counter takes, where that is too long."""
        if self._energy not in self._parts:
            return None
        took_s = min(self._seconds(self._energy) for _ in range(TRIES))
        if took_s < DEAR_S:
            return None
        del self._parts[self._energy]
        return took_s

    def _seconds(self, part: Reading) -> float:
        before_ns = self._now_ns()
        with suppress(self._nvml.NVMLError):
            part()
        return (self._now_ns() - before_ns) / 1e9

    def read(self) -> Sequence[Value]:
        values: list[Value] = []
        for part, quantities in self._parts.items():
            try:
                values += part()
            except self._nvml.NVMLError:
                values += [(quantity, None) for quantity in quantities]
        return values

    def _utilization(self) -> list[Value]:
        rates = self._nvml.nvmlDeviceGetUtilizationRates(self._gpu)
        return [(Quantity.GPU_BUSY, float(rates.gpu)), (Quantity.MEMORY_BUSY, float(rates.memory))]

    def _video(self) -> list[Value]:
        encoder, _ = self._nvml.nvmlDeviceGetEncoderUtilization(self._gpu)
        decoder, _ = self._nvml.nvmlDeviceGetDecoderUtilization(self._gpu)
        return [(Quantity.VIDEO_BUSY, float(max(encoder, decoder)))]

    def _memory(self) -> list[Value]:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(self._gpu)
        return [(Quantity.VRAM_USED, float(memory.used)), (Quantity.VRAM_TOTAL, float(memory.total))]

    def _power(self) -> list[Value]:
        """The plain call gives the mean of a second on newer chips, so the instant is preferred."""
        (instant_mw,) = field_values(self._nvml, self._gpu, POWER_INSTANT)
        milliwatts = self._nvml.nvmlDeviceGetPowerUsage(self._gpu) if instant_mw is None else instant_mw
        return [(Quantity.GPU_POWER, milliwatts * 1e-3)]

    def _energy(self) -> list[Value]:
        return [(Quantity.GPU_ENERGY, self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu) * 1e-3)]

    def _limit(self) -> list[Value]:
        return [(Quantity.POWER_LIMIT, self._nvml.nvmlDeviceGetEnforcedPowerLimit(self._gpu) * 1e-3)]

    def _gpu_clock(self) -> list[Value]:
        return [(Quantity.GPU_CLOCK, self._nvml.nvmlDeviceGetClockInfo(self._gpu, CLOCK_SM) * 1e6)]

    def _memory_clock(self) -> list[Value]:
        return [(Quantity.MEMORY_CLOCK, self._nvml.nvmlDeviceGetClockInfo(self._gpu, CLOCK_MEMORY) * 1e6)]

    def _temperature(self) -> list[Value]:
        return [(Quantity.GPU_TEMPERATURE, float(self._nvml.nvmlDeviceGetTemperature(self._gpu, TEMPERATURE_OF_GPU)))]

    def _throttled(self) -> list[Value]:
        return reasons(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._gpu))

    def close(self) -> None:
        with suppress(self._nvml.NVMLError):  # the driver went away first
            self._nvml.nvmlShutdown()


class NvmlFinder:
    """``library``: what stands for the module pynvml."""

    name = "nvml"

    def __init__(self, library: Any = None) -> None:
        self._library = library

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:
        if self._library is None and root != Path("/"):
            return (), (Missing(self.name, "a recorded machine has no driver to ask"),)
        library = self._library or import_module("pynvml")  # lazily: 10 ms
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            return (), (Missing(self.name, f"NVML: {error}", _todo(root)),)
        try:
            return self._gpus(library)
        finally:
            library.nvmlShutdown()

    def _gpus(self, library: Any) -> tuple[Sequence[Source], Sequence[Missing]]:
        sources: list[Source] = []
        links: list[NvidiaLink] = []
        missing: list[Missing] = []
        try:
            count = library.nvmlDeviceGetCount()
        except library.NVMLError as error:
            return (), (Missing(self.name, f"NVML: {error}"),)
        for index in range(count):
            try:
                source = NvidiaGpu(library, index)
            except library.NVMLError as error:
                missing.append(Missing(f"{self.name}:{index}", f"NVML: {error}"))
                continue
            sources.append(source)
            links.append(NvidiaLink(library, index))
            if source.unsupported:
                missing.append(Missing(source.name, f"this GPU does not tell: {', '.join(source.unsupported)}"))
            if source.dear_s is not None:
                words = (
                    f"its energy counter takes {source.dear_s * 1e3:.0f} ms to read: the power is integrated instead"
                )
                missing.append(Missing(source.name, words))
        return [*sources, *(link for link in links if link.has_values)], missing


def _todo(root: Path) -> str:
    """Only where an NVIDIA card is there."""
    for vendor in (root / "sys/bus/pci/devices").glob("*/vendor"):
        try:
            is_display = (vendor.parent / "class").read_text().startswith("0x03")
            if vendor.read_text().strip() == "0x10de" and is_display:
                return "install NVIDIA's driver"
        except OSError:
            continue
    return ""
