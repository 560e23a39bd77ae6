"""The source amdgpu on trees of files: an APU, a card, and what goes wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agents.telemetry.sources.amdgpu import AmdGpuFinder, chosen_state_hz
from agents.telemetry.sources.base import Quantity as Q
from tests.fakes.sensors import amd_apu, amd_card, card, files, read
from tests.unit.telemetry.test_amdgpu_metrics import table


def test_an_apu(tmp_path: Path) -> None:
    amd_apu(tmp_path)
    (source,), missing = AmdGpuFinder().find(tmp_path)
    assert (source.name, missing) == ("amdgpu:card0", [])
    assert read(source) == {
        **{Q.GPU_BUSY: 97, Q.VRAM_TOTAL: 34359738368, Q.VRAM_USED: 20401094656},
        **{Q.GTT_TOTAL: 16106127360, Q.GTT_USED: 268435456},
        **{Q.PACKAGE_POWER: 68.0, Q.GPU_TEMPERATURE: 61.0, Q.GPU_CLOCK: 2833e6, Q.MEMORY_CLOCK: 1000e6},
    }
    source.close()


def test_a_card(tmp_path: Path) -> None:
    amd_card(tmp_path)
    (source,), _ = AmdGpuFinder().find(tmp_path)
    assert read(source) == {
        **{Q.GPU_BUSY: 12, Q.MEMORY_BUSY: 34, Q.VRAM_USED: 5, Q.VRAM_TOTAL: 6},
        **{Q.GPU_POWER: 142.0, Q.POWER_LIMIT: 203.0, Q.GPU_CLOCK: 2450e6, Q.MEMORY_CLOCK: 1124e6},
        **{Q.GPU_TEMPERATURE: 55.0, Q.HOTSPOT_TEMPERATURE: 71.0, Q.MEMORY_TEMPERATURE: 80.0},
    }


def test_files_are_read_anew(tmp_path: Path) -> None:
    device = amd_apu(tmp_path)
    (source,), _ = AmdGpuFinder().find(tmp_path)
    read(source)
    files(device, {"gpu_busy_percent": 3})
    assert read(source)[Q.GPU_BUSY] == 3


def test_the_table_fills_what_files_do_not_tell(tmp_path: Path) -> None:
    """A v3 table: the GPU's own power, and a temperature where hwmon's file has nothing to say; clocks are hwmon's."""
    device = amd_apu(tmp_path)
    fields = {4: ("H", 6300), 112: ("I", 1), 120: ("I", 70500), 124: ("I", 51000), 174: ("H", 9), 232: ("I", 5)}
    (device / "gpu_metrics").write_bytes(table((3, 0), fields))
    (source,), missing = AmdGpuFinder().find(tmp_path)
    files(device / "hwmon/hwmon4", {"temp1_input": ""})
    fields[232] = ("I", 6)
    (device / "gpu_metrics").write_bytes(table((3, 0), fields))
    values = read(source)
    assert missing == []
    assert (values[Q.GPU_POWER], values[Q.PACKAGE_POWER], values[Q.GPU_CLOCK]) == (51.0, 68.0, 2833e6)
    assert (values[Q.GPU_TEMPERATURE], values[Q.THROTTLED_POWER]) == (63.0, 1.0)
    assert read(source)[Q.THROTTLED_POWER] == 0.0


def test_a_table_of_an_unknown_version_is_told_once(tmp_path: Path) -> None:
    (amd_card(tmp_path) / "gpu_metrics").write_bytes(b"\x08\x00\x01\x09" + b"\0" * 4)
    (source,), (missing,) = AmdGpuFinder().find(tmp_path)
    assert "v1.9" in missing.why
    assert read(source)[Q.GPU_BUSY] == 12


def test_a_sensor_that_a_card_has_not_shows_0(tmp_path: Path) -> None:
    files(amd_card(tmp_path) / "hwmon/hwmon2", {"temp3_input": 0})
    (source,), _ = AmdGpuFinder().find(tmp_path)
    assert read(source)[Q.MEMORY_TEMPERATURE] is None


def test_two_cards(tmp_path: Path) -> None:
    amd_card(tmp_path, 10)
    amd_apu(tmp_path, 2)
    (tmp_path / "sys/class/drm/card2-eDP-1").mkdir()
    sources, _ = AmdGpuFinder().find(tmp_path)
    assert [source.name for source in sources] == ["amdgpu:card2", "amdgpu:card10"]


@pytest.mark.parametrize("driver", ["nvidia", "i915"])
def test_no_card_of_its_own(tmp_path: Path, driver: str) -> None:
    card(tmp_path, driver)
    sources, (missing,) = AmdGpuFinder().find(tmp_path)
    assert not sources
    assert missing.todo == ""


def test_a_card_that_shows_nothing(tmp_path: Path) -> None:
    card(tmp_path, "amdgpu")
    sources, (missing,) = AmdGpuFinder().find(tmp_path)
    assert (sources, missing.source) == ([], "amdgpu:card0")
    assert missing.todo


def test_all_files_are_closed(tmp_path: Path) -> None:
    amd_apu(tmp_path)
    (amd_card(tmp_path, 1) / "gpu_metrics").write_bytes(table((1, 3), {}))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    sources, _ = AmdGpuFinder().find(tmp_path)
    assert len(os.listdir("/proc/self/fd")) > before  # noqa: PTH208
    for source in sources:
        source.close()
        assert set(read(source).values()) == {None}
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize(
    ("data", "hz"),
    [
        (b"0: 600Mhz \n1: 2833Mhz *\n2: 2900Mhz \n", 2833e6),
        (b"S: 19Mhz *\n0: 500Mhz \n", 19e6),
        (b"0: 96MHz *\n", 96e6),
        (b"0: 600Mhz \n", None),
        (b"", None),
        (None, None),
    ],
)
def test_the_state_with_the_star(data: bytes | None, hz: float | None) -> None:
    assert chosen_state_hz(data) == hz
