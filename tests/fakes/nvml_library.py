"""What stands for the module ``pynvml``: its functions, names and errors as nvidia-ml-py 13 has them.

``gpus`` holds each GPU's answers by function; an ``NvmlError`` among them is raised, and what can be called is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

NOT_SUPPORTED, UNKNOWN, GPU_IS_LOST, LIBRARY_NOT_FOUND = 3, 999, 15, 12


class NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


def laptop_gpu(**others: object) -> dict[str, Any]:
    """A card of which all can be read."""
    return {
        "UtilizationRates": SimpleNamespace(gpu=91, memory=60),
        "EncoderUtilization": [2, 167000],
        "DecoderUtilization": [5, 167000],
        "MemoryInfo": SimpleNamespace(total=8 * 2**30, used=6 * 2**30, free=2 * 2**30),
        "PowerUsage": 70_000,
        "TotalEnergyConsumption": 123_456_789,
        "EnforcedPowerLimit": 80_000,
        "ClockInfo": {1: 2370, 2: 8001},
        "Temperature": 71,
        "CurrentClocksThrottleReasons": 0x4,
        "PcieThroughput": {0: 100, 1: 200},
        "FieldValues": {186: 75_500, 197: 1_000_000, 198: 9_000_000},
        "MaxPcieLinkGeneration": 4,
        "MaxPcieLinkWidth": 8,
        **others,
    }


class NvmlLibrary:
    NVMLError = NvmlError
    NVML_ERROR_NOT_SUPPORTED = NOT_SUPPORTED

    def __init__(self, *gpus: dict[str, Any], init_error: int | None = None) -> None:
        self.gpus = list(gpus)
        self._init_error = init_error
        self.open = 0
        self.asked: list[str] = []

    def nvmlInit(self) -> None:
        if self._init_error is not None:
            raise NvmlError(self._init_error)
        self.open += 1

    def nvmlShutdown(self) -> None:
        if self.open == 0:
            raise NvmlError(1)
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if isinstance(self.gpus[index].get("Handle"), NvmlError):
            raise self.gpus[index]["Handle"]
        return index

    def _answer(self, gpu: int, name: str) -> Any:
        self.asked.append(name)
        answer = self.gpus[gpu][name]
        if isinstance(answer, NvmlError):
            raise answer
        return answer() if callable(answer) else answer

    def nvmlDeviceGetClockInfo(self, gpu: int, which: int) -> int:
        clocks: Mapping[int, int] = self._answer(gpu, "ClockInfo")
        return clocks[which]

    def nvmlDeviceGetTemperature(self, gpu: int, which: int) -> int:
        assert which == 0
        degrees: int = self._answer(gpu, "Temperature")
        return degrees

    def nvmlDeviceGetPcieThroughput(self, gpu: int, which: int) -> int:
        kibibytes: Mapping[int, int] = self._answer(gpu, "PcieThroughput")
        return kibibytes[which]

    def nvmlDeviceGetFieldValues(self, gpu: int, ids: Sequence[int]) -> list[SimpleNamespace]:
        known: Mapping[int, int] = self._answer(gpu, "FieldValues")
        return [
            SimpleNamespace(
                nvmlReturn=0 if each in known else NOT_SUPPORTED, value=SimpleNamespace(ullVal=known.get(each))
            )
            for each in ids
        ]

    def __getattr__(self, name: str) -> Any:
        prefix = "nvmlDeviceGet"
        if not name.startswith(prefix):
            raise AttributeError(name)
        return lambda gpu: self._answer(gpu, name.removeprefix(prefix))
