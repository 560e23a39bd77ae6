"""Intel GPUs on Linux, drivers i915 and xe: clocks, idle time, throttle reasons, power of discrete cards.

The kernel's intel_gt_sysfs_pm.c, xe_gt_freq.c, xe_gt_throttle.c, xe_gt_idle.c and Documentation/ABI/testing/
sysfs-driver-intel-{i915,xe}-hwmon. Of several GTs the first is read, which renders and computes; an integrated GPU has
no hwmon, its power is in RAPL's package. The busy shares of its engines come from drm_fdinfo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from agents.clock import SystemClock
from agents.telemetry.sources.base import Missing, Quantity, Source, Value
from agents.telemetry.sources.drm import DrmCard, cards, hwmon_of, labelled
from agents.telemetry.sources.files import HeldFile, Rate, scaled

_POWER_REASONS = ("pl1", "pl2", "pl4", "iccmax", "psys_pl1", "psys_pl2", "psys_crit")
_HEAT_REASONS = (
    *("thermal", "prochot", "ratl", "vr_thermalert"),
    *("soc_thermal", "mem_thermal", "vr_thermal", "soc_avg_thermal"),
)


class IntelGpu:
    averages_power: Literal[True] = True

    def __init__(self, card: DrmCard, now_ns: Callable[[], int] = SystemClock.monotonic_ns) -> None:
        self.name = f"{card.driver}:{card.name}"
        self._now_ns = now_ns
        self.hwmon = hwmon_of(card.device, card.driver)
        if card.driver == "xe":
            gt = card.device / "tile0/gt0"
            clock, idle = _first(gt / "freq0/act_freq"), _first(gt / "gtidle/idle_residency_ms")
            self._reasons = _reasons(gt / "freq0/throttle", "reason_")
        else:
            gt = card.folder / "gt/gt0"
            clock = _first(gt / "rps_act_freq_mhz", card.folder / "gt_act_freq_mhz")
            idle = _first(gt / "rc6_residency_ms", card.folder / "power/rc6_residency_ms")
            self._reasons = _reasons(gt, "throttle_reason_")
        self._clock, self._idle = clock, idle
        self._idle_rate, self._energy_rate = Rate(), Rate()
        self._energy = self._limit = None
        self._temperatures: list[tuple[Quantity, HeldFile]] = []
        if self.hwmon is not None:
            # energy1 is the card's, energy2 the package's
            self._energy = _first(self.hwmon / "energy1_input", self.hwmon / "energy2_input")
            self._limit = _first(self.hwmon / "power1_max", self.hwmon / "power2_max")
            self._temperatures = _temperatures(self.hwmon)

    @property
    def empty(self) -> bool:
        return not (self._clock or self._idle or self._energy or self._reasons)

    def read(self) -> Sequence[Value]:
        at_ns = self._now_ns()
        values: list[Value] = []
        if self._clock is not None:
            values.append((Quantity.GPU_CLOCK, scaled(self._clock.number(), 1e6)))
        if self._idle is not None:
            idle_ms_a_second = self._idle_rate.step(self._idle.number(), at_ns)
            asleep = scaled(idle_ms_a_second, 0.1)
            values.append((Quantity.GPU_ASLEEP, None if asleep is None else min(100.0, asleep)))
        if self._energy is not None:
            values.append((Quantity.GPU_POWER, scaled(self._energy_rate.step(self._energy.number(), at_ns), 1e-6)))
        if self._limit is not None:
            limit = self._limit.number()
            values.append((Quantity.POWER_LIMIT, scaled(limit or None, 1e-6)))  # 0: the limit is switched off
        values += [(quantity, scaled(file.number(), 1e-3)) for quantity, file in self._temperatures]
        return values + self._throttled()

    def _throttled(self) -> list[Value]:
        found: dict[Quantity, float | None] = {}
        for reason, file in self._reasons:
            now = file.number()
            flag = None if now is None else float(now != 0)
            before = found.get(reason)
            found[reason] = flag if before is None else max(before, flag or 0.0)
        return list(found.items())

    def close(self) -> None:
        of_hwmon = [file for _, file in self._temperatures]
        for each in (
            self._clock,
            self._idle,
            self._energy,
            self._limit,
            *of_hwmon,
            *(file for _, file in self._reasons),
        ):
            if each is not None:
                each.close()


def _first(*paths: Path) -> HeldFile | None:
    return next((file for path in paths if (file := HeldFile.open(path)) is not None), None)


def _reasons(folder: Path, prefix: str) -> list[tuple[Quantity, HeldFile]]:
    found = []
    for path in sorted(folder.glob(f"{prefix}*")):
        name = path.name.removeprefix(prefix)
        file = None if name == "status" else HeldFile.open(path)  # status: any of the others
        if file is not None:
            found.append((_word_for(name), file))
    return found


def _word_for(reason: str) -> Quantity:
    if reason in _POWER_REASONS:
        return Quantity.THROTTLED_POWER
    return Quantity.THROTTLED_HEAT if reason in _HEAT_REASONS else Quantity.THROTTLED_OTHER


def _temperatures(hwmon: Path) -> list[tuple[Quantity, HeldFile]]:
    """xe labels them pkg and vram; i915's only one has no label."""
    at = labelled(hwmon, "temp") or {"pkg": "temp1"}
    words = {"pkg": Quantity.GPU_TEMPERATURE, "vram": Quantity.MEMORY_TEMPERATURE}
    files = [(word, HeldFile.open(hwmon / f"{at[label]}_input")) for label, word in words.items() if label in at]
    return [(word, file) for word, file in files if file is not None]


class IntelGpuFinder:
    name = "intel"

    def find(self, root: Path) -> tuple[Sequence[Source], Sequence[Missing]]:
        sources, missing = [], []
        for card in cards(root, "i915", "xe"):
            source = IntelGpu(card)
            if source.empty:
                missing.append(Missing(source.name, f"{card.device} shows no figures", "update the kernel"))
                continue
            sources.append(source)
            if source.hwmon is None:
                missing.append(
                    Missing(source.name, "no hwmon: an integrated GPU's power is in the package's, see rapl")
                )
        if not sources and not missing:
            missing.append(Missing(self.name, "no GPU that i915 or xe runs"))
        return sources, missing
