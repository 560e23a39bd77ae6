"""What an attempt took of the machine: memory, utilisation, power, heat, energy. Derived from the readings.

Means are over the measured trial, from the request's sending to the end of its response; a column is null where no
source tells it.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.contract.columns import column


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory over the attempt, the rest over its measured trial."""

    vram_baseline_bytes: int | None = column("VRAM in use just before the model was loaded", unit="bytes", default=None)
    vram_peak_bytes: int | None = column("Most VRAM in use during load and run", unit="bytes", default=None)
    vram_used_by_model_bytes: int | None = column("VRAM: peak - baseline", unit="bytes", default=None)
    gtt_baseline_bytes: int | None = column(
        "RAM that the GPU had borrowed (GTT, shared GPU memory) just before the load", unit="bytes", default=None
    )
    gtt_peak_bytes: int | None = column("Most RAM that the GPU had borrowed", unit="bytes", default=None)
    gtt_used_by_model_bytes: int | None = column("GTT: peak - baseline", unit="bytes", default=None)
    ram_baseline_bytes: int | None = column("RAM in use just before the load", unit="bytes", default=None)
    ram_peak_bytes: int | None = column(
        "Most RAM in use during load and run; pages mapped from a file do not count", unit="bytes", default=None
    )
    ram_used_by_model_bytes: int | None = column("RAM: peak - baseline", unit="bytes", default=None)
    swap_baseline_bytes: int | None = column("Swap in use just before the load", unit="bytes", default=None)
    swap_peak_bytes: int | None = column("Most swap in use during load and run", unit="bytes", default=None)
    swap_used_by_model_bytes: int | None = column("Swap: peak - baseline", unit="bytes", default=None)
    engine_ram_peak_bytes: int | None = column(
        "Most resident memory of the engine's processes, mapped files too", unit="bytes", default=None
    )
    memory_source: str | None = column("Telemetry sources that the VRAM and GTT figures are from", default=None)
    memory_disagreements: str | None = column(
        "Where sources, or the engine's own figures, differ from the memory figures by more than 10 %", default=None
    )
    gpu_busy_mean_pct: float | None = column("GPU busy, mean; of the busiest GPU", unit="%", default=None)
    compute_busy_mean_pct: float | None = column("GPU's compute engine busy, mean", unit="%", default=None)
    copy_busy_mean_pct: float | None = column(
        "GPU's copy engine busy, mean: what moves bytes between RAM and VRAM", unit="%", default=None
    )
    memory_busy_mean_pct: float | None = column("GPU's memory controller busy, mean", unit="%", default=None)
    cpu_busy_mean_pct: float | None = column("CPU busy, mean over all cores", unit="%", default=None)
    engine_cpu_mean_cores: float | None = column("Cores that the engine's processes kept busy, mean", default=None)
    gpu_power_mean_w: float | None = column("Power of the GPU, mean", unit="W", default=None)
    package_power_mean_w: float | None = column(
        "Power of the package, mean: CPU, and on an APU its GPU", unit="W", default=None
    )
    system_power_mean_w: float | None = column(
        "Power of the whole machine, mean; by its own sensor, or out of the battery", unit="W", default=None
    )
    power_under_load_w: float | None = column(
        "Power that a limit would hold down, mean from first to last token: the package's where the GPU is in it,"
        " else the GPU's, else the package's",
        unit="W",
        default=None,
    )
    gpu_clock_mean_hz: float | None = column("Clock of the GPU, mean", unit="Hz", default=None)
    cpu_clock_mean_hz: float | None = column("Clock of the CPU, mean", unit="Hz", default=None)
    memory_clock_mean_hz: float | None = column("Clock of the GPU's memory, mean", unit="Hz", default=None)
    gpu_temperature_max_c: float | None = column("Highest temperature of the GPU", unit="°C", default=None)
    cpu_temperature_max_c: float | None = column("Highest temperature of the CPU", unit="°C", default=None)
    throttled_power_pct: float | None = column(
        "Part of the trial in which the driver held clocks down for power", unit="%", default=None
    )
    throttled_heat_pct: float | None = column(
        "Part of the trial in which the driver held clocks down for heat", unit="%", default=None
    )
    battery_charge_pct: float | None = column("Charge of the battery at the end", unit="%", default=None)
    disturbed_by: str | None = column(
        "Where others used the CPU: the process that used most of it when the wait for quiet was over", default=None
    )


@dataclass(frozen=True, slots=True)
class Energy:
    """Of the measured trial: the prompt phase (sending to first token) and the decode phase (first to last token).

    Null where no source tells power, or a phase is too short for the readings.
    """

    energy_source: str | None = column("Telemetry source of the energy", default=None)
    energy_scope: str | None = column(
        "What that energy is of: package (CPU, and on an APU its GPU), gpu (the card alone), system, battery",
        default=None,
    )
    idle_power_w: float | None = column("Power by that source before the load", unit="W", default=None)
    prompt_energy_j: float | None = column("Energy from sending to first token", unit="J", default=None)
    decode_energy_j: float | None = column(
        "Energy from first to last token; of a run that makes images, of all of it", unit="J", default=None
    )
    prompt_energy_above_idle_j: float | None = column(
        "Energy from sending to first token, less idle_power_w over that time", unit="J", default=None
    )
    decode_energy_above_idle_j: float | None = column(
        "Energy from first to last token, less idle_power_w over that time", unit="J", default=None
    )
    decode_power_w: float | None = column(
        "Mean power from first to last token, by energy_source: decode_energy_j / time", unit="W", default=None
    )
    gpu_decode_energy_j: float | None = column(
        "Energy of the GPU alone from first to last token; never added to the package's", unit="J", default=None
    )
    package_decode_energy_j: float | None = column(
        "Energy of the package from first to last token; on an APU the GPU is in it", unit="J", default=None
    )
