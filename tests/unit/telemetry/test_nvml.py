"""NVIDIA's library: a fake one's answers, and the real one, which finds no driver on most machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.telemetry.base import Missing
from agents.telemetry.base import Quantity as Q
from agents.telemetry.nvml import NvidiaGpu, NvmlKind, reasons
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
    library, now = NvmlLibrary(laptop_gpu()), Now()
    source = NvidiaGpu(library, 0, now)
    first = read(source)
    assert (first[Q.TO_GPU], first[Q.FROM_GPU]) == (None, None)
    now.pass_s(0.5)
    library.gpus[0]["FieldValues"] = {186: 75_500, 197: 1_500_000, 198: 10_000_000}
    values = read(source)
    assert values == pytest.approx(
        {
            **{Q.GPU_BUSY: 91, Q.MEMORY_BUSY: 60, Q.VIDEO_BUSY: 5},
            **{Q.VRAM_USED: 6 * 2**30, Q.VRAM_TOTAL: 8 * 2**30},
            **{Q.GPU_POWER: 75.5, Q.GPU_ENERGY: 123456.789, Q.POWER_LIMIT: 80.0},
            **{Q.GPU_CLOCK: 2370e6, Q.MEMORY_CLOCK: 8001e6, Q.GPU_TEMPERATURE: 71},
            **{Q.THROTTLED_POWER: 1, Q.THROTTLED_HEAT: 0, Q.THROTTLED_OTHER: 0},
            **{Q.TO_GPU: 2_000_000, Q.FROM_GPU: 1_000_000},
        }
    )


@pytest.mark.parametrize("fields", [{}, NvmlError(NOT_SUPPORTED)])
def test_an_older_driver_without_field_values(fields: Any) -> None:
    values = read(NvidiaGpu(NvmlLibrary(laptop_gpu(FieldValues=fields)), 0))
    assert (values[Q.GPU_POWER], values[Q.TO_GPU], values[Q.FROM_GPU]) == (70.0, 200 * 1024, 100 * 1024)


def test_what_a_gpu_does_not_support_is_told_once_and_not_asked_again() -> None:
    """GB10: one memory with the CPU."""
    absent = NvmlError(NOT_SUPPORTED)
    library = NvmlLibrary(laptop_gpu(MemoryInfo=absent, EnforcedPowerLimit=absent))
    (source,), (missing,) = NvmlKind(library).find(ROOT)
    assert missing == Missing("nvml:0", "this GPU does not tell: vram_used, vram_total, power_limit")
    library.asked.clear()
    values = read(source)
    assert not {Q.VRAM_USED, Q.VRAM_TOTAL, Q.POWER_LIMIT} & set(values)
    assert "MemoryInfo" not in library.asked
    assert values[Q.GPU_BUSY] == 91


def test_a_gpu_that_is_lost_under_way() -> None:
    library = NvmlLibrary(laptop_gpu())
    (source,), _ = NvmlKind(library).find(ROOT)
    told = set(read(source))
    library.gpus[0] = dict.fromkeys(laptop_gpu(), NvmlError(GPU_IS_LOST))
    lost = read(source)
    assert (set(lost), set(lost.values())) == (told, {None})


def test_a_figure_that_fails_at_first_is_asked_again() -> None:
    library = NvmlLibrary(laptop_gpu(Temperature=NvmlError(UNKNOWN)))
    (source,), missing = NvmlKind(library).find(ROOT)
    assert (read(source)[Q.GPU_TEMPERATURE], missing) == (None, [])
    library.gpus[0]["Temperature"] = 50
    assert read(source)[Q.GPU_TEMPERATURE] == 50


def test_several_gpus_one_of_which_cannot_be_had() -> None:
    library = NvmlLibrary(laptop_gpu(), laptop_gpu(Handle=NvmlError(GPU_IS_LOST)), laptop_gpu(Temperature=30))
    sources, (missing,) = NvmlKind(library).find(ROOT)
    assert ([source.name for source in sources], missing.source) == (["nvml:0", "nvml:2"], "nvml:1")
    assert [read(source)[Q.GPU_TEMPERATURE] for source in sources] == [71, 30]
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
    sources, (missing,) = NvmlKind(NvmlLibrary(init_error=LIBRARY_NOT_FOUND)).find(tmp_path)
    assert (sources, missing.todo) == ((), todo)


def test_a_driver_without_gpus() -> None:
    library = NvmlLibrary()
    assert NvmlKind(library).find(ROOT) == ([], [])
    assert library.open == 0


def test_the_real_library_for_a_recorded_machine_is_not_asked(tmp_path: Path) -> None:
    sources, (missing,) = NvmlKind().find(tmp_path)
    assert (sources, "recorded" in missing.why) == ((), True)


def test_the_real_library() -> None:
    """Either GPUs, each of which can be read, or a reason."""
    sources, missing = NvmlKind().find(ROOT)
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
