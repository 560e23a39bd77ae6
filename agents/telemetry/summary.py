"""The columns of an attempt's usage, from its readings. PURE"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents.contract.measure import Trial
from agents.contract.usage import Usage
from agents.telemetry.energy import POWER_OF, first_mean_w, precedence, windows_of
from agents.telemetry.memory_truth import MemoryTruth, Pool
from agents.telemetry.series import Series, Window
from agents.telemetry.sources.base import Quantity


def usage_of(series: Series, memory: MemoryTruth, trial: Trial | None, gpu_in_package: bool) -> Usage:
    """``trial`` is the measured one; None where there is none: then only the memory is known."""
    phases = windows_of(trial) if trial is not None else None
    pools = memory.pools
    sources = dict.fromkeys(
        pools[each].source for each in (Quantity.VRAM_USED, Quantity.GTT_USED) if each in pools and pools[each].source
    )
    return Usage(
        **{
            f"{quantity.removesuffix('_used')}_{name}": value
            for quantity, pool in pools.items()
            for name, value in _columns(pool).items()
        },
        engine_ram_peak_bytes=memory.engine_ram_peak_bytes,
        memory_source=", ".join(sources) or None,
        memory_disagreements="; ".join(memory.disagreements) or None,
        **(_of_window(series, phases.whole) if phases is not None else {}),
        power_under_load_w=under_load_w(series, phases.decode, gpu_in_package) if phases is not None else None,
    )


def _columns(pool: Pool) -> dict[str, Any]:
    return {
        "baseline_bytes": pool.baseline_bytes,
        "peak_bytes": pool.peak_bytes,
        "used_by_model_bytes": pool.added_bytes,
    }


def _of_window(series: Series, window: Window) -> dict[str, Any]:
    gpu = busiest_gpu(series, window)

    def mean(quantity: Quantity) -> float | None:
        return _by(series, quantity, gpu, lambda source: series.mean(source, quantity, window))

    def most(quantity: Quantity) -> float | None:
        return _by(series, quantity, gpu, lambda source: series.most(source, quantity, window))

    cores_pct = mean(Quantity.ENGINE_CPU)
    return {
        "gpu_busy_mean_pct": mean(Quantity.GPU_BUSY),
        "compute_busy_mean_pct": mean(Quantity.COMPUTE_BUSY),
        "copy_busy_mean_pct": mean(Quantity.COPY_BUSY),
        "memory_busy_mean_pct": mean(Quantity.MEMORY_BUSY),
        "cpu_busy_mean_pct": mean(Quantity.CPU_BUSY),
        "engine_cpu_mean_cores": None if cores_pct is None else cores_pct / 100,
        "gpu_power_mean_w": first_mean_w(series, "gpu", window),
        "package_power_mean_w": first_mean_w(series, "package", window),
        "system_power_mean_w": _system_w(series, window),
        "gpu_clock_mean_hz": mean(Quantity.GPU_CLOCK),
        "cpu_clock_mean_hz": mean(Quantity.CPU_CLOCK),
        "memory_clock_mean_hz": mean(Quantity.MEMORY_CLOCK),
        "gpu_temperature_max_c": most(Quantity.GPU_TEMPERATURE),
        "cpu_temperature_max_c": most(Quantity.CPU_TEMPERATURE),
        "throttled_power_pct": share_pct(series, Quantity.THROTTLED_POWER, window),
        "throttled_heat_pct": share_pct(series, Quantity.THROTTLED_HEAT, window),
        "battery_charge_pct": _at_end(series, Quantity.BATTERY_CHARGE, window),
    }


def busiest_gpu(series: Series, window: Window) -> str | None:
    """The source of the GPU that worked; None where no source reads how busy one is."""
    means = {source: series.mean(source, Quantity.GPU_BUSY, window) for source in series.sources(Quantity.GPU_BUSY)}
    known = {source: mean for source, mean in means.items() if mean is not None}
    return max(known, key=lambda source: known[source]) if known else None


def under_load_w(series: Series, window: Window, gpu_in_package: bool) -> float | None:
    """What a power limit would hold down."""
    scopes = [scope for scope in precedence(series, window, gpu_in_package) if scope in ("package", "gpu")]
    means = (first_mean_w(series, scope, window) for scope in scopes)
    return next((mean for mean in means if mean is not None), None)


def limited_w(series: Series, window: Window, limit_of: str | None, gpu_in_package: bool) -> float | None:
    """What is to be held against a power limit: the most that one package or one GPU drew, where that is what it
    limits; else ``under_load_w``."""
    if limit_of is None:
        return under_load_w(series, window, gpu_in_package)
    quantity = POWER_OF[limit_of]
    means = [series.mean(source, quantity, window) for source in series.sources(quantity)]
    return max((mean for mean in means if mean is not None), default=None)


def share_pct(series: Series, quantity: Quantity, window: Window) -> float | None:
    """Part of the window in which a 0-or-1 quantity was 1, by the source that says most."""
    means = [series.mean(source, quantity, window) for source in series.sources(quantity)]
    known = [mean for mean in means if mean is not None]
    return 100 * max(known) if known else None


def _system_w(series: Series, window: Window) -> float | None:
    by_sensor = first_mean_w(series, "system", window)
    if by_sensor is not None or "battery" not in precedence(series, window, gpu_in_package=False):
        return by_sensor
    return first_mean_w(series, "battery", window)


def _by(series: Series, quantity: Quantity, gpu: str | None, of: Callable[[str], float | None]) -> float | None:
    """Of the GPU that worked if its source reads this, else of the first source that does."""
    sources = sorted(series.sources(quantity), key=lambda source: source != gpu)
    return next((value for value in map(of, sources) if value is not None), None)


def _at_end(series: Series, quantity: Quantity, window: Window) -> float | None:
    values = (series.value_at(source, quantity, window.end_s) for source in series.sources(quantity))
    return next((value for value in values if value is not None), None)
