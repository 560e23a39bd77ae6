from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from agents.contract.device import Gpu
from agents.device.inventory import with_nvidia
from agents.nvidia import nvidia_cards
from tests.fakes.nvml_library import LIBRARY_NOT_FOUND, NOT_SUPPORTED, NvmlError, NvmlLibrary

AMD = Gpu("amd 0x150e", "amd", "amdgpu", 2**29)


def card(**others: Any) -> dict[str, Any]:
    return {
        "Name": "NVIDIA GeForce RTX 4090",
        "MemoryInfo": SimpleNamespace(total=24 * 2**30),
        "MemoryBusWidth": 384,
        "MaxClockInfo": {2: 10_501},
        "VbiosVersion": b"95.02.3c.00.01",
        **others,
    }


class Library(NvmlLibrary):
    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95.05"

    def nvmlDeviceGetMaxClockInfo(self, gpu: int, which: int) -> int:
        clocks: dict[int, int] = self._answer(gpu, "MaxClockInfo")
        return clocks[which]


def test_a_card_as_its_driver_tells_of_it() -> None:
    library = Library(card())
    (found,) = nvidia_cards(library)
    gpu = Gpu("NVIDIA GeForce RTX 4090", "nvidia", "nvidia 580.95.05", 24 * 2**30, "95.02.3c.00.01")
    assert found.gpu == gpu
    assert found.bandwidth_bytes_per_s == 384 / 8 * 10_501e6 * 2  # the maker says 1,008 GB/s
    assert library.open == 0


def test_what_a_card_does_not_tell_is_not_known() -> None:
    mute = dict.fromkeys(card(), NvmlError(NOT_SUPPORTED))
    (found,) = nvidia_cards(Library(mute))
    assert found.gpu == Gpu("NVIDIA GPU 0", "nvidia", "nvidia 580.95.05", None, None)
    assert found.bandwidth_bytes_per_s is None


def test_without_a_driver_there_is_none() -> None:
    assert nvidia_cards(Library(init_error=LIBRARY_NOT_FOUND)) == ()
    lost = Library(card(), card(Handle=NvmlError(15)))
    assert nvidia_cards(lost) == () and lost.open == 0


def test_the_drivers_word_takes_the_place_of_the_kernels_in_its_order() -> None:
    first, second = nvidia_cards(Library(card(), card(Name="NVIDIA RTX 2000")))
    shown = Gpu("nvidia 0x2684", "nvidia", "nvidia")
    assert with_nvidia((AMD, shown), (first,)) == (AMD, first.gpu)
    assert with_nvidia((AMD,), (first, second)) == (AMD, first.gpu, second.gpu)
    assert with_nvidia((AMD, shown), ()) == (AMD, shown)
