"""The power limit of NVIDIA's cards, through their driver's library NVML (``nvidia-smi -pl``).

Documents: NVML API reference, nvmlDeviceSetPowerManagementLimit and its neighbours: mW, root; the limit is gone when
the driver is unloaded, so persistence mode should be on (``nvidia-smi -pm 1``). Laptops often answer NOT_SUPPORTED:
there the limit that the driver enforces can be read, and not set. Of several cards all get the limit, each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.power.methods.base import Levels, LimitNotHeld, MethodKind, PowerMethod, bounds_of

Handle = Any


@dataclass(frozen=True, slots=True)
class Nvml:
    library: Any  # pynvml
    cards: dict[str, Handle]  # by UUID, which stays when a card changes its slot
    most_w: float | None
    name: str = "nvml"

    def read(self) -> Levels:
        return {
            uuid: self._asked("nvmlDeviceGetPowerManagementLimit", card) / 1000 for uuid, card in self.cards.items()
        }

    def write(self, levels: Levels) -> None:
        for uuid, level in levels.items():
            if uuid not in self.cards:
                raise LimitNotHeld(f"nvml: {uuid} is not on this machine now")
            self._asked("nvmlDeviceSetPowerManagementLimit", self.cards[uuid], round(float(level) * 1000))

    def bounds(self) -> tuple[float, float]:
        ranges = [self._asked("nvmlDeviceGetPowerManagementLimitConstraints", card) for card in self.cards.values()]
        least, most = max(each[0] for each in ranges), min(each[1] for each in ranges)
        return bounds_of(least / 1000, most / 1000, 0.0, self.most_w)

    def levels_for(self, limit_w: float) -> Levels:
        return dict.fromkeys(self.cards, limit_w)

    def _asked(self, call: str, *arguments: Any) -> Any:
        try:
            return getattr(self.library, call)(*arguments)
        except self.library.NVMLError as error:
            todo = " (run the agent as root)" if isinstance(error, self.library.NVMLError_NoPermission) else ""
            raise LimitNotHeld(f"nvml: {call.removeprefix('nvmlDevice')}: {error}{todo}") from error


def cards_of(library: Any) -> dict[str, Handle]:
    """Raises the library's NVMLError."""
    library.nvmlInit()
    handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
    return {str(library.nvmlDeviceGetUUID(handle)): handle for handle in handles}


def _pynvml() -> Any:
    import pynvml

    return pynvml


def finder(load: Callable[[], Any]) -> Callable[[Path, float | None], PowerMethod | str]:
    def find(root: Path, most_w: float | None) -> PowerMethod | str:
        if root != Path("/"):
            return "NVML tells of this machine only, not of a recorded one"
        library = load()
        try:
            cards = cards_of(library)
        except library.NVMLError as error:
            return f"NVML does not start: {error}"
        if not cards:
            return "no NVIDIA card here"
        method = Nvml(library, cards, most_w)
        try:
            method.read()
            method.bounds()
        except LimitNotHeld as error:
            return f"{error.detail} (laptops often refuse)"
        return method

    return find


def looker(load: Callable[[], Any]) -> Callable[[Path], float | None]:
    def look(root: Path) -> float | None:
        """The limit of the first card: the one that was set, else the one that the driver enforces."""
        if root != Path("/"):
            return None
        library = load()
        with suppress(library.NVMLError):
            for card in cards_of(library).values():
                for call in (library.nvmlDeviceGetPowerManagementLimit, library.nvmlDeviceGetEnforcedPowerLimit):
                    with suppress(library.NVMLError):
                        return float(call(card)) / 1000
        return None

    return look


NVML = MethodKind("nvml", finder(_pynvml), looker(_pynvml), of="gpu")
