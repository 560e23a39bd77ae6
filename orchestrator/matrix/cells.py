"""One cell, and the blocks of index arithmetic that cells are made from. PURE

Memory grows with the number of values, not of cells: a byte and four more for each cell of a block, and only where
cells of it are left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import compress, product
from pathlib import PureWindowsPath
from typing import Any

from agents.contract.job import LoadSettings, MachineState, ModelSource, Workload
from orchestrator.matrix.axes import AXES, BY_NAME, Value
from orchestrator.matrix.matrix import Dim, Grid, Matrix
from orchestrator.matrix.models import fill_quantisation, identity, literal_source

Option = tuple[Value, ...]
_SWAP = bytes((1, *bytes(255)))  # bytes.translate table: 0 becomes 1, all else 0


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of values. ``options`` are those of its block's dims, in order."""

    block: Block
    options: tuple[Option, ...]

    @property
    def values(self) -> dict[str, Value]:
        """Canonical value of each axis that is given, by the axis's name."""
        return dict(zip(self.block.names, (value for option in self.options for value in option), strict=True))

    @property
    def cell_id(self) -> str:
        """20 hex digits, a hash of axis names, canonical values and the contents of workload and model source.

        Free of the device and of where the matrix file lies: equal on every machine and after a restart.
        """
        values = self.values
        world = self.block.world
        parts = [world.fragment(name, values[name]) for name in self.block.id_names]
        return hashlib.blake2b(b"\n".join(parts), digest_size=10).hexdigest()

    @property
    def load(self) -> LoadSettings:
        values = self.values
        found = _fields("load", values)
        source = self.block.world.source(str(values["model"]), values.get("quantisation"))
        return LoadSettings(**found, source=source)

    @property
    def state(self) -> MachineState:
        return MachineState(**_fields("state", self.values))

    @property
    def workload(self) -> Workload:
        return self.block.world.matrix.workloads[str(self.values["workload"])]

    @property
    def device(self) -> str | None:
        """Id or name of the one device that the cell is for; None: every device that is selected."""
        device = self.values.get("device")
        return None if device is None else str(device)

    def label(self) -> str:
        """The axes that vary in this matrix, in a few words: ``tiny:llama Q8_0 ctx 16K kv q8_0 pp512``."""
        values = self.values
        return " ".join(axis.shown(values[axis.name]) for axis in self.block.world.shown if axis.name in values)


def _fields(part: str, values: Mapping[str, Value]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        axis = BY_NAME[name]
        if axis.part == part:
            found.update(zip(axis.columns, axis.fields(value), strict=True))
    return found


class World:
    """What all cells of a matrix share."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self.folder = matrix.path.parent
        self._fragments: dict[tuple[str, Value], bytes] = {}
        self._sources: dict[tuple[str, Value | None], ModelSource] = {}
        seen: dict[str, set[Value | None]] = {axis.name: set() for axis in AXES}
        for grid in matrix.grids:
            given = {
                name: {option[at] for option in dim.options} for dim in grid.dims for at, name in enumerate(dim.names)
            }
            for name, values in seen.items():
                values.update(given.get(name, {None}))
        varying = tuple(axis for axis in AXES if len(seen[axis.name]) > 1)
        self.shown = varying or (BY_NAME["model"], BY_NAME["workload"])

    def fragment(self, name: str, value: Value) -> bytes:
        """``axis=JSON`` of one value; for a model with its source, for a workload with all it holds."""
        key = (name, value)
        if key not in self._fragments:
            content: Any = value
            if name == "workload":
                content = [value, _content(self.matrix.workloads[str(value)])]
            elif name == "model":
                source = self.matrix.models.get(str(value)) or literal_source(str(value))
                content = [value, _content(identity(source))]
            self._fragments[key] = f"{name}={json.dumps(content, sort_keys=True)}".encode()
        return self._fragments[key]

    def source(self, model: str, quantisation: Value | None) -> ModelSource:
        key = (model, quantisation)
        if key not in self._sources:
            source = self.matrix.models.get(model) or literal_source(model)
            source = fill_quantisation(source, None if quantisation is None else str(quantisation))
            if source.path is not None:
                beside = not source.mmproj or not re.search(r"[/\\]", source.mmproj)  # a bare name: beside the model
                mmproj = source.mmproj if beside else self._absolute(str(source.mmproj))
                source = replace(source, path=self._absolute(source.path), mmproj=mmproj)
            self._sources[key] = source
        return self._sources[key]

    def _absolute(self, path: str) -> str:
        """A path from the folder of the matrix file; ``~`` is left to the device, and a drive letter needs nothing."""
        if path.startswith("~") or PureWindowsPath(path).drive:
            return path
        return os.path.normpath(self.folder / path)


def _content(value: Any) -> Any:
    """A contract dataclass as JSON types; long texts (pictures) stand as their SHA-256.

    Fields at their defaults are left out, so that a field that is added later changes no id.
    """
    if is_dataclass(value):
        given = ((part, getattr(value, part.name)) for part in fields(value))
        return {part.name: _content(found) for part, found in given if found != part.default}
    if isinstance(value, tuple):
        return [_content(item) for item in value]
    if isinstance(value, str) and len(value) > 1000:
        return {"sha256": hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()}
    return value


class Block:
    """One grid without duplicates, and the positions that are left of it (None: all)."""

    def __init__(self, grid: Grid, world: World) -> None:
        self.world = world
        self.names = grid.names
        self.dims = tuple(Dim(dim.names, tuple(dict.fromkeys(dim.options))) for dim in grid.dims)
        self.id_names = tuple(sorted(name for name in self.names if name != "device"))
        self.size = Grid(self.dims).count()
        self.duplicates = grid.count() - self.size
        self.kept: array[int] | None = None
        self._dropped: bytearray | None = None
        self._positions: tuple[dict[Option, int], ...] | None = None

    def __len__(self) -> int:
        return self.size if self.kept is None else len(self.kept)

    def __iter__(self) -> Iterator[Cell]:
        combinations: Iterator[tuple[Option, ...]] = product(*(dim.options for dim in self.dims))
        if self._dropped is not None:
            combinations = compress(combinations, self._dropped.translate(_SWAP))
        return (Cell(self, options) for options in combinations)

    def cell(self, index: int) -> Cell:
        position = index if self.kept is None else self.kept[index]
        options = []
        for dim in reversed(self.dims):
            position, at = divmod(position, len(dim.options))
            options.append(dim.options[at])
        return Cell(self, tuple(reversed(options)))

    def drop(self, positions: bytearray) -> None:
        """Leaves out the positions whose byte is 1."""
        if 1 in positions:
            self._dropped = positions
            self.kept = array("I", compress(range(self.size), positions.translate(_SWAP)))

    def matching(self, wanted: Mapping[str, tuple[Value, ...]]) -> list[list[int]] | None:
        """For each dim the options with the wanted values; None where no cell has them."""
        if not set(wanted) <= set(self.names):
            return None
        chosen = []
        for dim in self.dims:
            tests = [(at, set(wanted[name])) for at, name in enumerate(dim.names) if name in wanted]
            options = [at for at, option in enumerate(dim.options) if all(option[i] in want for i, want in tests)]
            if not options:
                return None
            chosen.append(options)
        return chosen

    def mark(self, chosen: Sequence[Sequence[int]], positions: bytearray) -> None:
        """Sets the byte of every position in the product of ``chosen``."""
        self._mark(0, 0, chosen, positions)

    def _mark(self, dim: int, start: int, chosen: Sequence[Sequence[int]], positions: bytearray) -> None:
        rest = Grid(self.dims[dim:]).count()
        if all(len(options) == len(part.options) for options, part in zip(chosen[dim:], self.dims[dim:], strict=True)):
            positions[start : start + rest] = b"\x01" * rest
            return
        below = rest // len(self.dims[dim].options)
        for at in chosen[dim]:
            self._mark(dim + 1, start + at * below, chosen, positions)

    def position(self, values: Mapping[str, Value]) -> int | None:
        """Where the cell with exactly these values stands; None where it is not in this block."""
        if len(values) != len(self.names) or not all(name in values for name in self.names):
            return None
        if self._positions is None:
            self._positions = tuple({option: at for at, option in enumerate(dim.options)} for dim in self.dims)
        position = 0
        for dim, positions in zip(self.dims, self._positions, strict=True):
            at = positions.get(tuple(values[name] for name in dim.names))
            if at is None:
                return None
            position = position * len(dim.options) + at
        return position

    def has(self, values: Mapping[str, Value]) -> bool:
        position = self.position(values)
        return position is not None and not (self._dropped and self._dropped[position])
