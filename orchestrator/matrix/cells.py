"""One cell: a combination of axis values, and what it asks of a device. PURE

A cell is a plain value: names of axes, a value for each, and the definitions of its matrix that the names under
``models`` and ``workloads`` are looked up in. Load, state, label and id are worked out from these when they are asked
for, because a matrix can have a million cells and a plan looks at each part once or twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import PureWindowsPath
from typing import Any

from agents.contract.job import LoadSettings, MachineState, ModelSource, Workload
from orchestrator.matrix.axes import AXES, BY_NAME, Value
from orchestrator.matrix.matrix import Matrix
from orchestrator.matrix.models import fill_quantisation, identity, literal_source

# The canary: one fixed short cell, run before, between and after all others; its drift is the device's. It is the
# same in every run of every matrix, so it can be compared over months too: the embedded engine on the model with
# random weights and 0.6 B parameters, which every device makes for itself, on whatever back end the engine takes.
CANARY_VALUES: dict[str, Value] = {
    "engine": "embedded",
    "model": "tiny:llama-0.6b",
    "quantisation": "Q4_0",
    "context": 512,
    "workload": "pp64+tg32",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of values: ``choices`` has the canonical value of each of ``axes``."""

    axes: tuple[str, ...]
    choices: tuple[Value, ...]
    definitions: Definitions

    @property
    def values(self) -> dict[str, Value]:
        """Canonical value of each axis that is given, by the axis's name."""
        return dict(zip(self.axes, self.choices, strict=True))

    @property
    def cell_id(self) -> str:
        """20 hex digits, a hash of axis names, canonical values and the contents of workload and model source.

        Free of the device and of where the matrix file lies: equal on every machine and after a restart.
        """
        # By name and not by the order of the file, so that a matrix may be put in another order and still resume.
        given = sorted(zip(self.axes, self.choices, strict=True))
        parts = [self.definitions.id_part(name, value) for name, value in given if name != "device"]
        return hashlib.blake2b(b"\n".join(parts), digest_size=10).hexdigest()

    @property
    def load(self) -> LoadSettings:
        values = self.values
        source = self.definitions.model_source(str(values["model"]), values.get("quantisation"))
        return LoadSettings(**_fields("load", values), source=source)

    @property
    def state(self) -> MachineState:
        return MachineState(**_fields("state", self.values))

    @property
    def workload(self) -> Workload:
        return self.definitions.workloads[str(self.values["workload"])]

    @property
    def device(self) -> str | None:
        """Id or name of the one device that the cell is for; None: every device that is selected."""
        device = self.values.get("device")
        return None if device is None else str(device)

    def label(self) -> str:
        """The axes that vary in this matrix, in a few words: ``tiny:llama Q8_0 ctx 16K kv q8_0 pp512``."""
        values = self.values
        return " ".join(axis.shown(values[axis.name]) for axis in self.definitions.label_axes if axis.name in values)


def canary_cell(matrix: Matrix) -> Cell | None:
    """None where the matrix wants none."""
    if not matrix.measure.canary:
        return None
    return Cell(tuple(CANARY_VALUES), tuple(CANARY_VALUES.values()), Definitions(matrix))


def _fields(part: str, values: Mapping[str, Value]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        axis = BY_NAME[name]
        if axis.part == part:
            found.update(zip(axis.columns, axis.fields(value), strict=True))
    return found


class Definitions:
    """What the names in a matrix's cells stand for: its models and workloads. All cells of an expansion share one.

    The results are kept, because a matrix has few names and many cells.
    """

    def __init__(self, matrix: Matrix) -> None:
        self.workloads = matrix.workloads
        self._models = matrix.models
        self._folder = matrix.path.parent
        self._id_parts: dict[tuple[str, Value], bytes] = {}
        self._sources: dict[tuple[str, Value | None], ModelSource] = {}
        seen: dict[str, set[Value | None]] = {axis.name: set() for axis in AXES}
        for grid in matrix.grids:
            for name, values in seen.items():
                values.update(grid.values_of(name) or (None,))
        varying = tuple(axis for axis in AXES if len(seen[axis.name]) > 1)
        self.label_axes = varying or (BY_NAME["model"], BY_NAME["workload"])

    def id_part(self, name: str, value: Value) -> bytes:
        """``axis=JSON`` of one value; for a model with its source, for a workload with all it holds."""
        key = (name, value)
        if key not in self._id_parts:
            content: Any = value
            if name == "workload":
                content = [value, _content(self.workloads[str(value)])]
            elif name == "model":
                source = self._models.get(str(value)) or literal_source(str(value))
                content = [value, _content(identity(source))]
            self._id_parts[key] = f"{name}={json.dumps(content, sort_keys=True)}".encode()
        return self._id_parts[key]

    def model_source(self, model: str, quantisation: Value | None) -> ModelSource:
        """Where the files of ``model`` come from, with the cell's quantisation in their names and absolute paths."""
        key = (model, quantisation)
        if key not in self._sources:
            source = self._models.get(model) or literal_source(model)
            source = fill_quantisation(source, None if quantisation is None else str(quantisation))
            if source.path is not None:
                beside = not source.mmproj or not re.search(r"[/\\]", source.mmproj)  # a bare name: beside the model
                mmproj = source.mmproj if beside else self._absolute(str(source.mmproj))
                source = replace(source, path=self._absolute(source.path), mmproj=mmproj)
            self._sources[key] = source
        return self._sources[key]

    def _absolute(self, path: str) -> str:
        """A path from the folder of the matrix file; ``~`` stays for the device, and a drive letter needs nothing."""
        if path.startswith("~") or PureWindowsPath(path).drive:
            return path
        return os.path.normpath(self._folder / path)


def _content(value: Any) -> Any:
    """A contract dataclass as JSON types; long texts (pictures) stand as their SHA-256.

    Fields at their defaults do not appear, so that a field that is added later changes no id.
    """
    if is_dataclass(value):
        given = ((part, getattr(value, part.name)) for part in fields(value))
        return {part.name: _content(found) for part, found in given if found != part.default}
    if isinstance(value, tuple):
        return [_content(item) for item in value]
    if isinstance(value, str) and len(value) > 1000:
        return {"sha256": hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()}
    return value
