"""AMD GPUs on Linux: sysfs, hwmon and the driver's table ``gpu_metrics``, one source a card.

The kernel's Documentation/gpu/amdgpu/thermal.rst and amdgpu_pm.c. hwmon's power is the whole package's on an APU, so
it is read as PACKAGE_POWER there. Where a file and the table hold the same, the file counts: the kernel scales it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from agents.telemetry.sources import amdgpu_metrics
from agents.telemetry.sources.base import Missing, Quantity, Source, Value
from agents.telemetry.sources.drm import DrmCard, cards, hwmon_of, labelled
from agents.telemetry.sources.files import HeldFile, scaled

_FILES: tuple[tuple[Quantity, str], ...] = (
    (Quantity.GPU_BUSY, "gpu_busy_percent"),
    (Quantity.MEMORY_BUSY, "mem_busy_percent"),
    (Quantity.VRAM_USED, "mem_info_vram_used"),
    (Quantity.VRAM_TOTAL, "mem_info_vram_total"),
    (Quantity.GTT_USED, "mem_info_gtt_used"),
    (Quantity.GTT_TOTAL, "mem_info_gtt_total"),
)
_TEMPERATURES = {
    "edge": Quantity.GPU_TEMPERATURE,
    "junction": Quantity.HOTSPOT_TEMPERATURE,
    "mem": Quantity.MEMORY_TEMPERATURE,
}
_CLOCKS = {"sclk": Quantity.GPU_CLOCK, "mclk": Quantity.MEMORY_CLOCK}
_CHOSEN_STATE = re.compile(rb"^\w+:\s*(\d{1,9})\s*mhz\s*\*", re.IGNORECASE | re.MULTILINE)


class AmdGpu:
    """One card. Files that it does not have are left out of its readings."""

    def __init__(self, card: DrmCard) -> None:
        self.name = f"amdgpu:{card.name}"
        self._hwmon = hwmon_of(card.device, "amdgpu")
        self._metrics_file = HeldFile.open(card.device / "gpu_metrics")
        self._before: amdgpu_metrics.GpuMetrics | None = None
        self.metrics_fault = self._try_metrics()
        paths = [(quantity, card.device / name, 1.0) for quantity, name in _FILES]
        paths += self._hwmon_paths(self._hwmon) if self._hwmon else []
        opened = [(quantity, HeldFile.open(path), scale) for quantity, path, scale in paths]
        self._files = [(quantity, file, scale) for quantity, file, scale in opened if file is not None]
        have = {quantity for quantity, _, _ in self._files}
        states = [
            (quantity, card.device / f"pp_dpm_{name}") for name, quantity in _CLOCKS.items() if quantity not in have
        ]
        self._states = [(quantity, file) for quantity, path in states if (file := HeldFile.open(path)) is not None]

    @property
    def empty(self) -> bool:
        return not (self._files or self._states or self._metrics_file)

    @property
    def has_hwmon(self) -> bool:
        return self._hwmon is not None

    def _try_metrics(self) -> str:
        """Empty where the table can be read; a runtime-suspended card's comes later."""
        data = self._metrics_file.data() if self._metrics_file else None
        try:
            self._before = amdgpu_metrics.parse(data) if data else None
        except ValueError as error:
            return str(error)
        return ""

    def _hwmon_paths(self, hwmon: Path) -> list[tuple[Quantity, Path, float]]:
        # only APUs have the voltage in1, vddnb
        apu = (self._before is not None and self._before.of_apu) or (hwmon / "in1_label").exists()
        average = hwmon / "power1_average"
        power = average if average.exists() else hwmon / "power1_input"
        temperatures = labelled(hwmon, "temp") or {"edge": "temp1"}
        clocks = labelled(hwmon, "freq")
        return [
            (Quantity.PACKAGE_POWER if apu else Quantity.GPU_POWER, power, 1e-6),
            (Quantity.POWER_LIMIT, hwmon / "power1_cap", 1e-6),
            *(
                (_TEMPERATURES[at], hwmon / f"{temperatures[at]}_input", 1e-3)
                for at in _TEMPERATURES
                if at in temperatures
            ),
            *((_CLOCKS[of], hwmon / f"{clocks[of]}_input", 1.0) for of in _CLOCKS if of in clocks),
        ]

    def read(self) -> Sequence[Value]:
        values = {quantity: scaled(file.number(), scale) for quantity, file, scale in self._files}
        values |= {quantity: chosen_state_hz(file.data()) for quantity, file in self._states}
        for quantity in _TEMPERATURES.values():
            if values.get(quantity) == 0:  # a card without this sensor shows 0
                values[quantity] = None
        for quantity, value in self._read_metrics().items():
            if values.get(quantity) is None:
                values[quantity] = value
        return list(values.items())

    def _read_metrics(self) -> dict[Quantity, float]:
        data = self._metrics_file.data() if self._metrics_file else None
        if not data:
            return {}
        try:
            now = amdgpu_metrics.parse(data)
        except ValueError:
            return {}
        before, self._before = self._before, now
        return {**now.values, **(amdgpu_metrics.throttled(before, now) if before else {})}

    def close(self) -> None:
        for file in (*(each[1] for each in self._files), *(each[1] for each in self._states), self._metrics_file):
            if file is not None:
                file.close()


def chosen_state_hz(data: bytes | None) -> float | None:
    """The state with the star in ``pp_dpm_sclk``: ``1: 800Mhz *``; in deep sleep ``S: 19Mhz *``. PURE"""
    found = _CHOSEN_STATE.search(data) if data else None
    return float(found[1]) * 1e6 if found else None


class AmdGpuFinder:
    name = "amdgpu"

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:
        sources, missing = [], []
        for card in cards(root, "amdgpu"):
            source = AmdGpu(card)
            if source.empty:
                missing.append(Missing(source.name, f"{card.device} shows no figures", "update the kernel"))
                continue
            sources.append(source)
            if source.metrics_fault:
                missing.append(Missing(source.name, source.metrics_fault))
            if not source.has_hwmon:
                missing.append(Missing(source.name, "no hwmon: its power, temperatures and clocks are not shown"))
        if not sources and not missing:
            missing.append(Missing(self.name, "no GPU that the driver amdgpu runs"))
        return sources, missing
