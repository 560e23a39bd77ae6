"""All sources together: their words, this machine for real, and machines on which everything goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agents.telemetry.sampler import find
from agents.telemetry.sources import SOURCES
from agents.telemetry.sources.base import FollowsEngine, Quantity, Source
from tests.fakes.sensors import (
    ALWAYS_EIO,
    amd_apu,
    amd_card,
    cpu,
    files,
    gpu_descriptor,
    i915_gpu,
    process,
    rapl_zone,
    read,
    xe_card,
)
from tests.fakes.sys_tree import write
from tests.unit.telemetry.test_amdgpu_metrics import table

NAMES = {"cpu", "memory", "psutil", "rapl", "battery", "amdgpu", "intel", "drm_fdinfo", "nvml", "windows", "macmon"}


def full_machine(root: Path, gpu: Callable[[Path], Path]) -> None:
    """A laptop that has all that Linux can show."""
    device = gpu(root)
    (device / "gpu_metrics").write_bytes(table((2, 3), {4: ("H", 5000), 120: ("Q", 1)}))
    cpu(root, {0: 1_000_000}, {"name": "k10temp", "temp1_label": "Tctl", "temp1_input": 50000})
    write(root / "proc/meminfo", "MemTotal: 9 kB\nMemAvailable: 4 kB\nSwapTotal: 3 kB\nSwapFree: 3 kB\n")
    write(root / "proc/vmstat", "pswpin 5\n")
    rapl_zone(root, "intel-rapl:0", "package-0", 5, limit_uw=15_000_000)
    files(
        root / "sys/class/power_supply/BAT0",
        {"type": "Battery", "status": "Discharging", "capacity": 5, "power_now": 5},
    )
    files(root / "sys/class/power_supply/AC", {"type": "Mains", "online": 0})
    process(root, 100, 1, ticks=5, pages=5)
    gpu_descriptor(root, 100, 3, (Path("tests/recordings/telemetry") / "amdgpu.fdinfo").read_text())


def machine_sources(root: Path) -> list[Source]:
    sources, missing = find(SOURCES, root)
    assert not [each for each in missing if "report" in each.todo]  # a kind raised
    for source in sources:
        if isinstance(source, FollowsEngine):
            source.follow([100])
    return sources


def test_words() -> None:
    assert {each.unit for each in Quantity} == {"%", "bytes", "bytes/s", "Hz", "°C", "J", "W", ""}
    assert [kind.name for kind in SOURCES if kind.name in NAMES] == [kind.name for kind in SOURCES]
    assert {kind.name for kind in SOURCES} == NAMES


def test_this_machine_for_real() -> None:
    sources, missing = find(SOURCES, Path("/"))
    assert {"cpu", "memory"} <= {source.name for source in sources} or {"psutil"} == {source.name for source in sources}
    assert not [each for each in missing if "report" in each.todo]
    for source in sources:
        assert all(quantity in Quantity for quantity in read(source))
        source.close()


@pytest.mark.parametrize("gpu", [amd_apu, amd_card, i915_gpu, xe_card])
def test_names_are_each_ones_own(tmp_path: Path, gpu: Callable[[Path], Path]) -> None:
    full_machine(tmp_path, gpu)
    sources = machine_sources(tmp_path)
    names = [source.name for source in sources]
    assert len(set(names)) == len(names) == 8
    known = {quantity for source in sources for quantity, value in read(source).items() if value is not None}
    assert {Quantity.RAM_USED, Quantity.CPU_TEMPERATURE, Quantity.BATTERY_POWER, Quantity.ENGINE_RAM} <= known


def all_files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]


@pytest.mark.parametrize("gpu", [amd_apu, amd_card, i915_gpu, xe_card])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"N/A\n", b"-\n", b"9" * 400, b"9" * 5000, b": :\n\n)(\n", b"cpu  1\npswpin\n"]
)
def test_files_that_turn_to_garbage_are_unknown(tmp_path: Path, content: bytes, gpu: Callable[[Path], Path]) -> None:
    """Nobody raises, and nobody makes a figure of it; what is 0 without clients, and old shares, may stand."""
    full_machine(tmp_path, gpu)
    sources = machine_sources(tmp_path)
    before = {source.name: set(read(source)) for source in sources}
    for path in all_files(tmp_path):
        path.write_bytes(content)
    for source in sources:
        values = read(source)
        assert set(values) <= before[source.name]
        if not source.name.startswith("drm_fdinfo"):
            assert set(values.values()) <= {None}
        source.close()


@pytest.mark.parametrize("gpu", [amd_apu, amd_card, i915_gpu, xe_card])
def test_files_that_vanish_or_cannot_be_read(tmp_path: Path, gpu: Callable[[Path], Path]) -> None:
    """From the start, and after they were found."""
    full_machine(tmp_path, gpu)
    for path in all_files(tmp_path):
        if path.name.endswith(("_label", "name", "type", "uevent")) or "fd" in path.parts:
            continue
        path.unlink()
        path.symlink_to(ALWAYS_EIO)
    for source in machine_sources(tmp_path):
        assert set(read(source).values()) <= {None, 0.0}
        source.close()


def test_a_machine_without_anything(tmp_path: Path) -> None:
    sources, missing = find(SOURCES, tmp_path)
    assert [source.name for source in sources] == ["psutil"]
    assert sorted(each.source for each in missing) == sorted(NAMES - {"cpu", "memory", "psutil"})
