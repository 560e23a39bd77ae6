"""gpu_metrics tables. Sizes and offsets are what gcc makes of the kernel's kgd_pp_interface.h on x86-64."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.telemetry.sources.amdgpu_metrics import parse, throttled
from agents.telemetry.sources.base import Quantity as Q

At = dict[int, tuple[str, int]]
SIZES = {
    **{(1, 0): 80, (1, 1): 96, (1, 2): 104, (1, 3): 120, (1, 4): 288, (1, 5): 328, (1, 6): 1664, (1, 7): 2208},
    **{(1, 8): 3360, (2, 0): 120, (2, 1): 120, (2, 2): 128, (2, 3): 152, (2, 4): 168, (3, 0): 264},
}
REASONS = (Q.THROTTLED_POWER, Q.THROTTLED_HEAT, Q.THROTTLED_OTHER)


def table(version: tuple[int, int], fields: At) -> bytes:
    """All bits set, as the driver begins, but the header and ``fields``: struct code and value by offset."""
    data = bytearray(b"\xff" * SIZES[version])
    struct.pack_into("<HBB", data, 0, SIZES[version], *version)
    for offset, (code, value) in fields.items():
        struct.pack_into(f"<{code}", data, offset, value)
    return bytes(data)


@pytest.mark.parametrize("version", SIZES)
def test_what_the_chip_does_not_tell_is_not_there(version: tuple[int, int]) -> None:
    metrics = parse(table(version, {}))
    assert (metrics.version, dict(metrics.values), dict(metrics.residencies)) == (version, {}, {})
    assert metrics.of_apu == (version[0] >= 2)


CARD = {
    "edge": 55,
    "hotspot": 70,
    "mem": 80,
    "busy": 98,
    "memory": 40,
    "video": 3,
    "watts": 220,
    "mhz": 2450,
    "uclk": 1124,
}
CARD_VALUES = {
    **{Q.GPU_TEMPERATURE: 55, Q.HOTSPOT_TEMPERATURE: 70, Q.MEMORY_TEMPERATURE: 80},
    **{Q.GPU_BUSY: 98, Q.MEMORY_BUSY: 40, Q.VIDEO_BUSY: 3, Q.GPU_POWER: 220},
    **{Q.GPU_CLOCK: 2450e6, Q.MEMORY_CLOCK: 1124e6},
}


def card_fields(edge: int, clocks: int) -> At:
    """Offsets of temperature_edge and of current_gfxclk; what follows each is the same in v1.0 to v1.3."""
    at = dict(zip(("edge", "hotspot", "mem"), (edge, edge + 2, edge + 4), strict=True))
    at |= dict(zip(("busy", "memory", "video", "watts"), (edge + 12, edge + 14, edge + 16, edge + 18), strict=True))
    at |= {"mhz": clocks, "uclk": clocks + 4}
    return {offset: ("H", CARD[name]) for name, offset in at.items()}


@pytest.mark.parametrize(
    ("version", "fields"),
    [((1, 0), card_fields(16, 54)), *(((1, content), card_fields(4, 54)) for content in (1, 2, 3))],
)
def test_cards(version: tuple[int, int], fields: At) -> None:
    assert dict(parse(table(version, fields)).values) == CARD_VALUES


@pytest.mark.parametrize("content", [4, 5, 6, 7, 8])
def test_cards_of_data_centres_by_what_their_tables_share(content: int) -> None:
    fields: At = {4: ("H", 61), 6: ("H", 62), 10: ("H", 550), 12: ("H", 99), 14: ("H", 30)}
    assert dict(parse(table((1, content), fields)).values) == {
        **{Q.HOTSPOT_TEMPERATURE: 61, Q.MEMORY_TEMPERATURE: 62, Q.GPU_POWER: 550},
        **{Q.GPU_BUSY: 99, Q.MEMORY_BUSY: 30},
    }


def apu_fields(heat: int, power: int, clocks: int) -> At:
    """Offsets of temperature_gfx, average_socket_power and current_gfxclk."""
    return {
        **{heat: ("H", 6112), heat + 4 + 6: ("H", 7050), heat + 24: ("H", 9750)},
        **{power: ("H", 35500), power + 6: ("H", 18250), clocks: ("H", 2700), clocks + 4: ("H", 2400)},
    }


@pytest.mark.parametrize(
    ("version", "fields"),
    [((2, 0), apu_fields(16, 44, 80)), *(((2, content), apu_fields(4, 40, 76)) for content in (1, 2, 3, 4))],
)
def test_apus(version: tuple[int, int], fields: At) -> None:
    assert dict(parse(table(version, fields)).values) == pytest.approx(
        {
            **{Q.GPU_TEMPERATURE: 61.12, Q.CPU_TEMPERATURE: 70.5, Q.GPU_BUSY: 97.5},
            **{Q.PACKAGE_POWER: 35.5, Q.GPU_POWER: 18.25, Q.GPU_CLOCK: 2700e6, Q.MEMORY_CLOCK: 2400e6},
        }
    )


def test_an_apu_that_tells_only_averages() -> None:
    fields: At = {64: ("H", 1100), 68: ("H", 800), 128: ("H", 5000), 132: ("H", 4100), 134: ("H", 4200)}
    assert dict(parse(table((2, 3), fields)).values) == {
        **{Q.GPU_CLOCK: 1100e6, Q.MEMORY_CLOCK: 800e6, Q.GPU_TEMPERATURE: 50.0, Q.CPU_TEMPERATURE: 42.0}
    }


def test_a_newest_apu() -> None:
    """42 is average_gfx_activity, by firmware % or 0.01 %; 168 average_sys_power, too narrow: neither is taken."""
    fields: At = {4: ("H", 3812), 10: ("H", 5000), 42: ("H", 50), 168: ("H", 60000)}
    fields |= {112: ("I", 98000), 120: ("I", 96500), 124: ("I", 71250), 174: ("H", 2850), 186: ("H", 1000)}
    assert dict(parse(table((3, 0), fields)).values) == pytest.approx(
        {
            **{Q.GPU_TEMPERATURE: 38.12, Q.CPU_TEMPERATURE: 50.0, Q.PACKAGE_POWER: 96.5, Q.GPU_POWER: 71.25},
            **{Q.GPU_CLOCK: 2850e6, Q.MEMORY_CLOCK: 1000e6},
        }
    )


@pytest.mark.parametrize(
    ("bit", "reason"),
    [
        *((bit, Q.THROTTLED_POWER) for bit in (0, 3, 4, 7)),  # PPT0, PPT3, SPL, SPPT_APU
        *((bit, Q.THROTTLED_OTHER) for bit in (16, 21, 23, 56, 57)),  # TDC_GFX, EDC_CPU, APCC, PPM, FIT
        *((bit, Q.THROTTLED_HEAT) for bit in (32, 35, 40, 44, 47)),  # TEMP_GPU, EDGE, VR_MEM0, VRHOT0, PROCHOT_GFX
    ],
)
@pytest.mark.parametrize(("version", "offset"), [((1, 3), 112), ((2, 2), 120), ((2, 3), 120), ((2, 4), 120)])
def test_each_throttle_bit_by_its_reason(version: tuple[int, int], offset: int, bit: int, reason: Q) -> None:
    values = parse(table(version, {offset: ("Q", 1 << bit)})).values
    assert dict(values) == {each: float(each is reason) for each in REASONS}


@pytest.mark.parametrize(("version", "offset", "heat"), [((1, 3), 112, 0.0), ((2, 3), 120, 1.0)])
def test_the_hotspot_bit_that_new_cards_always_show(version: tuple[int, int], offset: int, heat: float) -> None:
    assert parse(table(version, {offset: ("Q", 1 << 36)})).values[Q.THROTTLED_HEAT] == heat


@pytest.mark.parametrize(("status", "untold"), [(0, 0.0), (8, 1.0)])
@pytest.mark.parametrize(("version", "offset"), [((1, 0), 68), ((1, 1), 68), ((2, 0), 112), ((2, 1), 108)])
def test_an_older_table_tells_no_reason(version: tuple[int, int], offset: int, status: int, untold: float) -> None:
    assert dict(parse(table(version, {offset: ("I", status)})).values) == {Q.THROTTLED_UNKNOWN: untold}


@pytest.mark.parametrize(
    ("moved", "power", "heat"),
    [((), 0.0, 0.0), ((232,), 1.0, 0.0), ((240,), 1.0, 0.0), ((228,), 0.0, 1.0), ((236, 252), 1.0, 1.0)],
)
def test_residencies_that_move_are_throttling(moved: tuple[int, ...], power: float, heat: float) -> None:
    offsets = range(228, 256, 4)  # prochot spl fppt sppt thm_core thm_gfx thm_soc
    before = parse(table((3, 0), dict.fromkeys(offsets, ("I", 7))))
    now = parse(table((3, 0), {offset: ("I", 8 if offset in moved else 7) for offset in offsets}))
    assert throttled(before, now) == {Q.THROTTLED_POWER: power, Q.THROTTLED_HEAT: heat}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"\x78\x00\x01", "3 bytes"),
        (struct.pack("<HBB", 8, 1, 9) + b"\0" * 4, "v1.9 is not known"),
        (struct.pack("<HBB", 264, 3, 1) + b"\0" * 260, "v3.1 is not known"),
        (table((1, 3), {})[:100], "100 bytes, says 120"),
        (struct.pack("<HBB", 96, 1, 3) + b"\0" * 116, "says 96, should be 120"),
        (b"\0" * 64, "v0.0 is not known"),
    ],
)
def test_no_table(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(data)


def test_a_longer_read_than_the_table_is_well() -> None:
    assert parse(table((1, 3), {22: ("H", 9)}) + b"\0" * 3976).values[Q.GPU_POWER] == 9


@given(st.sampled_from(sorted(SIZES)), st.binary(max_size=400))
def test_any_bytes_are_a_table_or_a_value_error(version: tuple[int, int], noise: bytes) -> None:
    for data in (noise, (struct.pack("<HBB", SIZES[version], *version) + noise)[: SIZES[version]]):
        try:
            values = parse(data).values
        except ValueError:
            continue
        assert all(isinstance(value, int | float) for value in values.values())
