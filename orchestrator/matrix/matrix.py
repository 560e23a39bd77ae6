"""A matrix file, read and checked: frozen, and complete with every file that it names. PURE"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

from agents.contract.device import Device, MemoryKind
from agents.contract.job import Conditions, ModelSource, Timeouts, Workload
from agents.units import format_size
from orchestrator.matrix.axes import Value


@dataclass(frozen=True, slots=True)
class DeviceSelector:
    """Which devices a matrix runs on. Each field that is given must hold; within one, any of its values will do."""

    ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    min_ram_bytes: int | None = None
    min_vram_bytes: int | None = None
    gpu_vendors: tuple[str, ...] = ()
    away_after_s: float | None = None  # selects nothing: how long the run waits for a device that went away

    def matches(self, device: Device) -> bool:
        return self.why_not(device) is None

    def why_not(self, device: Device) -> str | None:
        """The first thing that keeps ``device`` out, as a sentence; None where it is selected."""
        return next(self._reasons(device), None)

    def _reasons(self, device: Device) -> Iterator[str]:
        if self.ids and device.device_id not in self.ids:
            yield f"its id {device.device_id} is not one of {', '.join(self.ids)}"
        if self.names and not any(fnmatchcase(device.name.casefold(), name.casefold()) for name in self.names):
            yield f"its name {device.name} is not one of {', '.join(self.names)}"
        has = dict(device.labels)
        for key, value in self.labels:
            if has.get(key) != value:
                yield f"its label {key} is {has[key]}, not {value}" if key in has else f"it has no label {key}"
        if self.min_ram_bytes is not None and device.ram_bytes < self.min_ram_bytes:
            yield f"it has {format_size(device.ram_bytes)} of RAM, less than {format_size(self.min_ram_bytes)}"
        if self.min_vram_bytes is not None and _vram_bytes(device) < self.min_vram_bytes:
            yield f"it has {format_size(_vram_bytes(device))} of VRAM, less than {format_size(self.min_vram_bytes)}"
        vendors = tuple(gpu.vendor.lower() for gpu in device.gpus)
        if self.gpu_vendors and not set(vendors) & set(self.gpu_vendors):
            asked = ", ".join(self.gpu_vendors)
            yield (
                f"its GPU is by {', '.join(vendors)}, not {asked}"
                if vendors
                else f"it has no GPU, and {asked} is asked"
            )


def _vram_bytes(device: Device) -> int:
    """Memory that the GPU can call its own: the largest card's, the carve-out, or on unified memory the RAM."""
    if device.memory_kind is MemoryKind.UNIFIED:
        return device.ram_bytes
    return max([device.dedicated_vram_bytes or 0, *(gpu.vram_bytes or 0 for gpu in device.gpus)])


class Rounds(StrEnum):
    """What a round of repeats goes through."""

    LOADED = "loaded"  # the cells of one loaded engine: the fewest loads
    STATE = "state"  # all cells of a machine state: a load for each, and drift over hours is spread over all of them


class OnBattery(StrEnum):
    """What becomes of a trial on battery."""

    FLAG = "flag"  # left out of verdicts
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Measure:
    """How often each cell is measured, and in what conditions. ``seed`` is that of the order of the runs."""

    repeats: int = 3
    warmups: int = 1
    seed: int = 1
    keep_output: bool = False
    rounds: Rounds = Rounds.LOADED
    conditions: Conditions = Conditions()
    canary: bool = False


@dataclass(frozen=True, slots=True)
class Dimension:
    """Axes that go together: each option holds one value for each of ``names``. A zip group has several names."""

    names: tuple[str, ...]
    options: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """A product of dimensions; the last one changes fastest. No axis stands in two of them."""

    dims: tuple[Dimension, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for dim in self.dims for name in dim.names)

    def values_of(self, name: str) -> tuple[Value, ...]:
        """Each value of an axis once, in the order of the file; empty where the grid has no such axis."""
        found = (option[dim.names.index(name)] for dim in self.dims if name in dim.names for option in dim.options)
        return tuple(dict.fromkeys(found))

    def count(self) -> int:
        """Combinations of the product, with duplicates."""
        return math.prod(len(dim.options) for dim in self.dims)

    def count_unique(self) -> int:
        return math.prod(len(set(dim.options)) for dim in self.dims)


@dataclass(frozen=True, slots=True)
class Matrix:
    """``text`` is the file's, ``files`` the bytes of the prompts and pictures it names, by the path as written.

    ``grids`` holds the product (axes and zip) and one grid for each entry of ``include``. ``excludes`` are
    taken from the product alone. ``digest`` is the SHA-256 (hex) of text and files. ``models`` has the sources of
    the names under ``models``; their relative paths are relative to the folder of ``path``.
    """

    name: str
    question: str
    path: Path
    digest: str
    devices: DeviceSelector
    models: Mapping[str, ModelSource]
    workloads: Mapping[str, Workload]
    measure: Measure
    timeouts: Timeouts
    product: Grid | None
    includes: tuple[Grid, ...]
    excludes: tuple[Mapping[str, tuple[Value, ...]], ...]
    text: str = field(repr=False)
    files: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)

    @property
    def grids(self) -> tuple[Grid, ...]:
        return (*([self.product] if self.product else []), *self.includes)
