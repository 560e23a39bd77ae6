"""NVIDIA's library: a fake one's answers, and the real one, which finds no driver on most machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.telemetry.sources.base import Missing
from agents.telemetry.sources.base import Quantity as Q
from agents.telemetry.sources.nvml import NvidiaGpu, NvmlFinder, reasons
from agents.telemetry.sources.nvml_pcie import NvidiaLink
from tests.fakes.nvml_library import (
    GPU_IS_LOST,
    LIBRARY_NOT_FOUND,
    NOT_SUPPORTED,
    UNKNOWN,
    NvmlError,
    NvmlLibrary,
    laptop_gpu,
)
from tests.fakes.sensors import Now, read
from tests.fakes.sys_tree import write

ROOT = Path("/")


def test_a_gpu() -> None:
    assert read(NvidiaGpu(NvmlLibrary(laptop_gpu()), 0)) == pytest.approx(
        {
            **{Q.GPU_BUSY: 91, Q.MEMORY_BUSY: 60, Q.VIDEO_BUSY: 5},
            **{Q.VRAM_USED: 6 * 2**30, Q.VRAM_TOTAL: 8 * 2**30},
            **{Q.GPU_POWER: 75.5, Q.GPU_ENERGY: 123456.789, Q.POWER_LIMIT: 80.0},
            **{Q.GPU_CLOCK: 2370e6, Q.MEMORY_CLOCK: 8001e6, Q.GPU_TEMPERATURE: 71},
            **{Q.THROTTLED_POWER: 1, Q.THROTTLED_HEAT: 0, Q.THROTTLED_OTHER: 0},
        }
    )


@pytest.mark.parametrize("fields", [{}, NvmlError(NOT_SUPPORTED)])
def test_an_older_driver_without_field_values(fields: Any) -> None:
    library = NvmlLibrary(laptop_gpu(FieldValues=fields))
    assert read(NvidiaGpu(library, 0))[Q.GPU_POWER] == 70.0
    assert read(NvidiaLink(library, 0)) == {Q.TO_GPU: 200 * 1024, Q.FROM_GPU: 100 * 1024}


def counters(sent: int, received: int) -> dict[int, int]:
    return {197: sent, 198: received}


def test_a_link_that_its_counters_can_follow() -> None:
    library, now = NvmlLibrary(laptop_gpu(FieldValues=counters(1_000_000, 2**32 - 400_000))), Now()
    link = NvidiaLink(library, 0, now)
    assert read(link) == {Q.TO_GPU: None, Q.FROM_GPU: None}
    now.pass_s(0.2)
    library.gpus[0]["FieldValues"] = counters(1_500_000, 600_000)
    assert read(link) == pytest.approx({Q.TO_GPU: 5_000_000, Q.FROM_GPU: 2_500_000})
    now.pass_s(0.3)  # the sampler is late: 15.8 GB/s can have wrapped them
    library.gpus[0]["FieldValues"] = counters(1_500_001, 600_001)
    assert read(link) == {Q.TO_GPU: None, Q.FROM_GPU: None}
    assert "PcieThroughput" not in library.asked


@pytest.mark.parametrize(
    "link", [{"MaxPcieLinkWidth": 16}, {"MaxPcieLinkGeneration": 7}, {"MaxPcieLinkWidth": NvmlError(NOT_SUPPORTED)}]
)
def test_a_link_that_would_wrap_its_counters_unseen_is_watched(link: dict[str, Any]) -> None:
    assert read(NvidiaLink(NvmlLibrary(laptop_gpu(**link)), 0)) == {Q.TO_GPU: 200 * 1024, Q.FROM_GPU: 100 * 1024}


def test_a_gpu_without_a_link_has_one_source() -> None:
    absent = NvmlError(NOT_SUPPORTED)
    library = NvmlLibrary(laptop_gpu(FieldValues=absent, PcieThroughput=absent))
    (source,), missing = NvmlFinder(library).find(ROOT)
    source.close()
    assert (source.name, missing, library.open) == ("nvml:0", [], 0)


def test_an_energy_counter_that_takes_long_is_left_out() -> None:
    now = Now()

    def from_firmware() -> int:
        now.pass_s(0.003)
        return 123_456

    source = NvidiaGpu(NvmlLibrary(laptop_gpu(TotalEnergyConsumption=from_firmware)), 0, now)
    assert Q.GPU_ENERGY not in read(source)
    assert read(source)[Q.GPU_POWER] == 75.5
    assert source.dear_s == pytest.approx(0.003)


def test_a_counter_that_only_at_first_took_long_is_read() -> None:
    now, waits = Now(), [0.5, 0.0, 0.0, 0.0]

    def woken() -> int:
        now.pass_s(waits.pop(0) if waits else 0.0)
        return 123_456

    assert read(NvidiaGpu(NvmlLibrary(laptop_gpu(TotalEnergyConsumption=woken)), 0, now))[Q.GPU_ENERGY] == 123.456


def test_what_a_gpu_does_not_support_is_told_once_and_not_asked_again() -> None:
    """GB10: one memory with the CPU."""
    absent = NvmlError(NOT_SUPPORTED)
    library = NvmlLibrary(laptop_gpu(MemoryInfo=absent, EnforcedPowerLimit=absent))
    (source, link), (missing,) = NvmlFinder(library).find(ROOT)
    assert link.name == "nvml_pcie:0"
    assert missing == Missing("nvml:0", "this GPU does not tell: vram_used, vram_total, power_limit")
    library.asked.clear()
    values = read(source)
    assert not {Q.VRAM_USED, Q.VRAM_TOTAL, Q.POWER_LIMIT} & set(values)
    assert "MemoryInfo" not in library.asked
    assert values[Q.GPU_BUSY] == 91


def test_a_gpu_that_is_lost_under_way() -> None:
    library = NvmlLibrary(laptop_gpu())
    sources, _ = NvmlFinder(library).find(ROOT)
    told = [set(read(source)) for source in sources]
    library.gpus[0] = dict.fromkeys(laptop_gpu(), NvmlError(GPU_IS_LOST))
    lost = [read(source) for source in sources]
    assert [set(each) for each in lost] == told
    assert [set(each.values()) for each in lost] == [{None}, {None}]


def test_a_figure_that_fails_at_first_is_asked_again() -> None:
    library = NvmlLibrary(laptop_gpu(Temperature=NvmlError(UNKNOWN)))
    (source, _), missing = NvmlFinder(library).find(ROOT)
    assert (read(source)[Q.GPU_TEMPERATURE], missing) == (None, [])
    library.gpus[0]["Temperature"] = 50
    assert read(source)[Q.GPU_TEMPERATURE] == 50


def test_several_gpus_one_of_which_cannot_be_had() -> None:
    library = NvmlLibrary(laptop_gpu(), laptop_gpu(Handle=NvmlError(GPU_IS_LOST)), laptop_gpu(Temperature=30))
    sources, (missing,) = NvmlFinder(library).find(ROOT)
    names = [source.name for source in sources]
    assert (names, missing.source) == (["nvml:0", "nvml:2", "nvml_pcie:0", "nvml_pcie:2"], "nvml:1")
    assert [read(source)[Q.GPU_TEMPERATURE] for source in sources[:2]] == [71, 30]
    for source in sources:
        source.close()
        source.close()
    assert library.open == 0


@pytest.mark.parametrize(
    ("bits", "power", "heat", "other"),
    [
        (0x0, 0, 0, 0),
        (0x1, 0, 0, 0),  # idle
        (0x4, 1, 0, 0),
        (0x80, 1, 0, 0),
        (0x8 | 0x80, 1, 0, 0),
        (0x20, 0, 1, 0),
        (0x8 | 0x40, 0, 1, 0),
        (0x8, 0, 0, 1),  # slowed, and nobody says why
        (0x2, 0, 0, 1),
        (0x100 | 0x4, 1, 0, 1),
    ],
)
def test_reasons(bits: int, power: float, heat: float, other: float) -> None:
    assert dict(reasons(bits)) == {Q.THROTTLED_POWER: power, Q.THROTTLED_HEAT: heat, Q.THROTTLED_OTHER: other}


@pytest.mark.parametrize(
    ("vendor", "kind", "todo"),
    [("0x10de", "0x030000", "install NVIDIA's driver"), ("0x10de", "0x040300", ""), ("0x1002", "0x030000", "")],
)
def test_no_driver(tmp_path: Path, vendor: str, kind: str, todo: str) -> None:
    folder = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    write(folder / "vendor", f"{vendor}\n")
    write(folder / "class", f"{kind}\n")
    sources, (missing,) = NvmlFinder(NvmlLibrary(init_error=LIBRARY_NOT_FOUND)).find(tmp_path)
    assert (sources, missing.todo) == ((), todo)


def test_a_driver_without_gpus() -> None:
    library = NvmlLibrary()
    assert NvmlFinder(library).find(ROOT) == ([], [])
    assert library.open == 0


def test_the_real_library_for_a_recorded_machine_is_not_asked(tmp_path: Path) -> None:
    sources, (missing,) = NvmlFinder().find(tmp_path)
    assert (sources, "recorded" in missing.why) == ((), True)


def test_the_real_library() -> None:
    """Either GPUs, each of which can be read, or a reason."""
    sources, missing = NvmlFinder().find(ROOT)
    assert sources or missing
    for source in sources:
        assert read(source)
        source.close()


def test_the_fake_has_no_function_that_the_real_one_has_not() -> None:
    import pynvml

    called = [name for name in laptop_gpu() if not hasattr(pynvml, f"nvmlDeviceGet{name}")]
    assert (called, pynvml.NVML_ERROR_NOT_SUPPORTED) == ([], NOT_SUPPORTED)
    constants = (pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES)
    assert (*constants, pynvml.NVML_FI_DEV_POWER_INSTANT) == (197, 198, 186)
