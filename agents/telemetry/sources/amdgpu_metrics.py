"""The binary table ``gpu_metrics`` of amdgpu: bytes -> figures. PURE

Layouts: the kernel's drivers/gpu/drm/amd/include/kgd_pp_interface.h, with C's own alignment. The driver fills a table
with 0xFF first, so all bits set means: not filled. Units: of v1 tables °C, %, W, MHz; of v2 and v3 tables
0.01 °C, mW, MHz. Not read, because the fields are too narrow for large chips or their unit differs by firmware:

- v3 ``average_gfx_activity`` (% or 0.01 %, by firmware; the file gpu_busy_percent knows),
- v3 ``average_sys_power`` and the STAPM limits (16 bits of mW end at 65 W), DRAM reads and writes (16 bits of MB/s).
- of v1.4 to v1.8, which are data-centre cards, only the part that all of them share; v1.9 is a list and is not read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from agents.telemetry.sources.base import Quantity

_HEADER = struct.Struct("<HBB")  # structure_size, format_revision, content_revision

_V1_FIRST = """
u16 temperature_edge temperature_hotspot temperature_mem temperature_vrgfx temperature_vrsoc temperature_vrmem
u16 average_gfx_activity average_umc_activity average_mm_activity average_socket_power"""
_V1_CLOCKS = """
u16 average_gfxclk_frequency average_socclk_frequency average_uclk_frequency
u16 average_vclk0_frequency average_dclk0_frequency average_vclk1_frequency average_dclk1_frequency
u16 current_gfxclk current_socclk current_uclk current_vclk0 current_dclk0 current_vclk1 current_dclk1
u32 throttle_status
u16 current_fan_speed"""
_V1_0 = f"u64 system_clock_counter {_V1_FIRST} u32 energy_accumulator {_V1_CLOCKS} u8 pcie_link_width pcie_link_speed"
_V1_1 = f"""{_V1_FIRST} u64 energy_accumulator system_clock_counter {_V1_CLOCKS}
u16 pcie_link_width pcie_link_speed padding u32 gfx_activity_acc mem_activity_acc u16 temperature_hbm*4"""
_V1_2 = f"{_V1_1} u64 firmware_timestamp"
_V1_3 = f"{_V1_2} u16 voltage_soc voltage_gfx voltage_mem padding1 u64 indep_throttle_status"
_V1_4 = """u16 temperature_hotspot temperature_mem temperature_vrsoc
u16 average_socket_power average_gfx_activity average_umc_activity"""  # the power is there called curr_socket_power

_V2_HEAT = (
    "u16 temperature_gfx temperature_soc temperature_core*8 temperature_l3*2 average_gfx_activity average_mm_activity"
)
_V2_REST = """
u16 average_socket_power average_cpu_power average_soc_power average_gfx_power average_core_power*8
u16 average_gfxclk_frequency average_socclk_frequency average_uclk_frequency average_fclk_frequency
u16 average_vclk_frequency average_dclk_frequency
u16 current_gfxclk current_socclk current_uclk current_fclk current_vclk current_dclk current_coreclk*8 current_l3clk*2
u32 throttle_status
u16 fan_pwm"""
_V2_0 = f"u64 system_clock_counter {_V2_HEAT} {_V2_REST} u16 padding"
_V2_1 = f"{_V2_HEAT} u64 system_clock_counter {_V2_REST} u16 padding*3"
_V2_2 = f"{_V2_1} u64 indep_throttle_status"
_V2_3 = f"""{_V2_2} u16 average_temperature_gfx average_temperature_soc
u16 average_temperature_core*8 average_temperature_l3*2"""
_V2_4 = f"""{_V2_3} u16 average_cpu_voltage average_soc_voltage average_gfx_voltage
u16 average_cpu_current average_soc_current average_gfx_current"""

_V3_0 = """
u16 temperature_gfx temperature_soc temperature_core*16 temperature_skin
u16 average_gfx_activity average_vcn_activity average_ipu_activity*8 average_core_c0_activity*16
u16 average_dram_reads average_dram_writes average_ipu_reads average_ipu_writes
u64 system_clock_counter
u32 average_socket_power u16 average_ipu_power
u32 average_apu_power average_gfx_power average_dgpu_power average_all_core_power
u16 average_core_power*16 average_sys_power stapm_power_limit current_stapm_power_limit
u16 average_gfxclk_frequency average_socclk_frequency average_vpeclk_frequency average_ipuclk_frequency
u16 average_fclk_frequency average_vclk_frequency average_uclk_frequency average_mpipu_frequency
u16 current_coreclk*16 current_core_maxfreq current_gfx_maxfreq
u32 throttle_residency_prochot throttle_residency_spl throttle_residency_fppt throttle_residency_sppt
u32 throttle_residency_thm_core throttle_residency_thm_gfx throttle_residency_thm_soc time_filter_alphavalue"""

_WHOLE: dict[tuple[int, int], str] = {
    **{(1, 0): _V1_0, (1, 1): _V1_1, (1, 2): _V1_2, (1, 3): _V1_3},
    **{(2, 0): _V2_0, (2, 1): _V2_1, (2, 2): _V2_2, (2, 3): _V2_3, (2, 4): _V2_4},
    **{(3, 0): _V3_0},
}
_BEGINNING: dict[tuple[int, int], str] = {(1, content): _V1_4 for content in range(4, 9)}

# drivers/gpu/drm/amd/pm/swsmu/inc/amdgpu_smu.h, SMU_THROTTLER_*: bit numbers of indep_throttle_status
_POWER_BITS = 0xFF  # PPT0..3, SPL, FPPT, SPPT, SPPT_APU
_CURRENT_BITS = 0xFF << 16  # TDC, EDC, APCC
_HEAT_BITS = 0xFFFF << 32  # TEMP_*, VRHOT*, PROCHOT*
_OTHER_BITS = 0xFF << 56  # PPM, FIT
_HOTSPOT_BIT = 1 << 36  # RDNA 3 cards show it nearly always, so of v1.3 tables it is left out

_RESIDENCIES = {
    Quantity.THROTTLED_POWER: ("spl", "fppt", "sppt"),
    Quantity.THROTTLED_HEAT: ("prochot", "thm_core", "thm_gfx", "thm_soc"),
}


@dataclass(frozen=True, slots=True)
class GpuMetrics:
    """``values``: what the table holds. ``residencies``: v3 counters that grow while clocks are held down."""

    version: tuple[int, int]
    values: Mapping[Quantity, float]
    residencies: Mapping[Quantity, tuple[int, ...]] = field(default_factory=dict)

    @property
    def of_apu(self) -> bool:
        return self.version[0] >= 2


def parse(data: bytes) -> GpuMetrics:
    """Raises ValueError, with the reason, for a table of an unknown version or of another length than its version's."""
    if len(data) < _HEADER.size:
        raise ValueError(f"gpu_metrics has {len(data)} bytes, too few for a header")
    size, *revision = _HEADER.unpack_from(data)
    version = (revision[0], revision[1])
    text = _WHOLE.get(version) or _BEGINNING.get(version)
    if text is None:
        raise ValueError(f"gpu_metrics v{version[0]}.{version[1]} is not known here")
    layout, length = layout_of(text)
    right = size == length if version in _WHOLE else size >= length
    if not right or len(data) < size:
        raise ValueError(
            f"gpu_metrics v{version[0]}.{version[1]} has {len(data)} bytes, says {size}, should be {length}"
        )
    fields = {name: _known(struct.unpack_from(code, data, offset), code) for name, (offset, code) in layout.items()}
    if version[0] == 1:
        return GpuMetrics(version, _of_card(fields))
    return GpuMetrics(version, _of_apu(fields, version), _residencies(fields))


@cache
def layout_of(text: str) -> tuple[dict[str, tuple[int, str]], int]:
    """Offset and struct code of each field behind the common header, and the whole's size, as a C compiler has it."""
    codes = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}
    layout: dict[str, tuple[int, str]] = {}
    offset, code, width, widest = _HEADER.size, "B", 1, 2
    for word in text.split():
        if word in codes:
            code, width = codes[word], struct.calcsize(f"<{codes[word]}")
            widest = max(widest, width)
            continue
        name, _, count = word.partition("*")
        offset += -offset % width
        layout[name] = (offset, f"<{count}{code}")
        offset += width * int(count or 1)
    return layout, offset + -offset % widest


def throttled(before: GpuMetrics, now: GpuMetrics) -> dict[Quantity, float]:
    """Of v3 tables: which reasons' counters moved in between."""
    return {
        reason: float(now.residencies[reason] != counters)
        for reason, counters in before.residencies.items()
        if reason in now.residencies
    }


Fields = dict[str, tuple[int | None, ...]]


def _known(values: tuple[int, ...], code: str) -> tuple[int | None, ...]:
    unset = (1 << 8 * struct.calcsize(f"<{code[-1]}")) - 1
    return tuple(None if value == unset else value for value in values)


def _first(fields: Fields, *names: str) -> int | None:
    """The first of these that the chip fills."""
    for name in names:
        for value in fields.get(name, ()):
            if value is not None:
                return value
    return None


def _most(fields: Fields, *names: str) -> int | None:
    """The largest element of the first of these that the chip fills."""
    for name in names:
        known = [value for value in fields.get(name, ()) if value is not None]
        if known:
            return max(known)
    return None


def _of_card(fields: Fields) -> dict[Quantity, float]:
    hotspot_left_out = _first(fields, "indep_throttle_status")
    status = None if hotspot_left_out is None else hotspot_left_out & ~_HOTSPOT_BIT
    return _scaled(
        (Quantity.GPU_BUSY, _first(fields, "average_gfx_activity"), 1),
        (Quantity.MEMORY_BUSY, _first(fields, "average_umc_activity"), 1),
        (Quantity.VIDEO_BUSY, _first(fields, "average_mm_activity"), 1),
        (Quantity.GPU_POWER, _first(fields, "average_socket_power"), 1),
        (Quantity.GPU_TEMPERATURE, _first(fields, "temperature_edge"), 1),
        (Quantity.HOTSPOT_TEMPERATURE, _first(fields, "temperature_hotspot"), 1),
        (Quantity.MEMORY_TEMPERATURE, _first(fields, "temperature_mem"), 1),
        (Quantity.GPU_CLOCK, _first(fields, "current_gfxclk", "average_gfxclk_frequency"), 1e6),
        (Quantity.MEMORY_CLOCK, _first(fields, "current_uclk", "average_uclk_frequency"), 1e6),
    ) | _reasons(status, _first(fields, "throttle_status"))


def _of_apu(fields: Fields, version: tuple[int, int]) -> dict[Quantity, float]:
    busy = _first(fields, "average_gfx_activity") if version[0] == 2 else None
    return _scaled(
        (Quantity.GPU_BUSY, busy, 0.01),
        (Quantity.GPU_POWER, _first(fields, "average_gfx_power"), 1e-3),
        (Quantity.PACKAGE_POWER, _first(fields, "average_apu_power", "average_socket_power"), 1e-3),
        (Quantity.GPU_TEMPERATURE, _first(fields, "temperature_gfx", "average_temperature_gfx"), 0.01),
        (Quantity.CPU_TEMPERATURE, _most(fields, "temperature_core", "average_temperature_core"), 0.01),
        (Quantity.GPU_CLOCK, _first(fields, "current_gfxclk", "average_gfxclk_frequency"), 1e6),
        (Quantity.MEMORY_CLOCK, _first(fields, "current_uclk", "average_uclk_frequency"), 1e6),
    ) | _reasons(_first(fields, "indep_throttle_status"), _first(fields, "throttle_status"))


def _scaled(*values: tuple[Quantity, int | None, float]) -> dict[Quantity, float]:
    return {quantity: value * scale for quantity, value, scale in values if value is not None}


def _reasons(status: int | None, of_this_chip: int | None) -> dict[Quantity, float]:
    """``status`` has the same bits for all chips; older tables only have each chip's own, which tell no reason."""
    if status is not None:
        return {
            Quantity.THROTTLED_POWER: float(bool(status & _POWER_BITS)),
            Quantity.THROTTLED_HEAT: float(bool(status & _HEAT_BITS)),
            Quantity.THROTTLED_OTHER: float(bool(status & (_CURRENT_BITS | _OTHER_BITS))),
        }
    return {} if of_this_chip is None else {Quantity.THROTTLED_UNKNOWN: float(bool(of_this_chip))}


def _residencies(fields: Fields) -> dict[Quantity, tuple[int, ...]]:
    found = {}
    for reason, names in _RESIDENCIES.items():
        known = [value for name in names if (value := _first(fields, f"throttle_residency_{name}")) is not None]
        if known:
            found[reason] = tuple(known)
    return found
