"""What crosses the PCIe link of an NVIDIA GPU, by NVML; a source of its own, for one way of reading takes long.

Two counters of bytes, 32 bits wide: they wrap every 0.07 s on the fullest link (generation 5, 16 lanes). Where the
link can carry less than that between two readings, their growth is exact. Else, and where a driver has no such
counters, NVML is asked to watch the link for 20 ms in each direction: a sample, in which the process sleeps.

Tried on an H100: while 20 GB were copied to it, the GPU itself sent 1.8 GB, the requests for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from agents.clock import SystemClock
from agents.telemetry.sources.base import Quantity, Value
from agents.telemetry.sources.files import Rate, scaled

SENT, RECEIVED = 197, 198  # nvml.h, NVML_FI_DEV_PCIE_COUNT_TX_BYTES and _RX_BYTES; by the GPU
SENDS, RECEIVES = 0, 1  # nvml.h, NVML_PCIE_UTIL_TX_BYTES and _RX_BYTES
WRAP = 2**32
LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}  # by generation; PCI-SIG
COUNTED_S = 0.25
"""Links that cannot wrap their counters within this are read by them: at 5 Hz, generation 4 with 8 lanes at most."""


def field_values(library: Any, gpu: Any, *ids: int) -> list[int | None]:
    """None for each that this driver or GPU does not have."""
    try:
        values = library.nvmlDeviceGetFieldValues(gpu, list(ids))
    except library.NVMLError:
        return [None] * len(ids)
    return [int(each.value.ullVal) if each.nvmlReturn == 0 else None for each in values]


class NvidiaLink:
    """``has_values`` is false where the driver knows nothing of the link: on-board GPUs (GB10), most virtual ones."""

    def __init__(self, library: Any, index: int, now_ns: Callable[[], int] = SystemClock.monotonic_ns) -> None:
        """Raises the library's error where the GPU cannot be had."""
        self.name = f"nvml_pcie:{index}"
        self._nvml = library
        self._now_ns = now_ns
        library.nvmlInit()  # counted by the library: one more for each source
        self._gpu = library.nvmlDeviceGetHandleByIndex(index)
        self._most = self._most_bytes_per_s()
        self._to_gpu, self._from_gpu = Rate(WRAP, self._most), Rate(WRAP, self._most)
        self._is_counted = self._most * COUNTED_S < WRAP and None not in self._counters()
        self.has_values = self._is_counted or None not in self._watched()
        if not self.has_values:
            self.close()

    def _most_bytes_per_s(self) -> float:
        """Of one direction; endless where it is not known."""
        try:
            generation = self._nvml.nvmlDeviceGetMaxPcieLinkGeneration(self._gpu)
            lanes = self._nvml.nvmlDeviceGetMaxPcieLinkWidth(self._gpu)
        except self._nvml.NVMLError:
            return float("inf")
        return float(LANE_BYTES_PER_S.get(generation, float("inf")) * lanes)

    def read(self) -> Sequence[Value]:
        to_gpu, from_gpu = self._counted() if self._is_counted else self._watched()
        return [(Quantity.TO_GPU, to_gpu), (Quantity.FROM_GPU, from_gpu)]

    def _counters(self) -> list[int | None]:
        return field_values(self._nvml, self._gpu, RECEIVED, SENT)

    def _counted(self) -> tuple[float | None, float | None]:
        received, sent = self._counters()
        at_ns = self._now_ns()
        return self._to_gpu.step(received, at_ns), self._from_gpu.step(sent, at_ns)

    def _watched(self) -> tuple[float | None, float | None]:
        try:
            received, sent = (
                self._nvml.nvmlDeviceGetPcieThroughput(self._gpu, direction) for direction in (RECEIVES, SENDS)
            )
        except self._nvml.NVMLError:
            return None, None
        return scaled(received, 1024), scaled(sent, 1024)  # KiB/s

    def close(self) -> None:
        with suppress(self._nvml.NVMLError):  # the driver went away first
            self._nvml.nvmlShutdown()
