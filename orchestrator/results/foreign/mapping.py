"""A mapping file (YAML): which column of another tool's table is which of ours, in what unit. PURE but the reading

::

    delimiter: ";"                                  # of a CSV; a comma by default
    columns:
      model: Model                                  # as it stands there
      decode_tps: {column: "t/s"}
      ttft_s: {column: "TTFT (ms)", unit: ms}       # or scale: 0.001
    constants: {engine: some-tool, runtime: vulkan, workload: tg128}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.types as kinds

from orchestrator.errors import UsageError
from orchestrator.matrix.problems import BadValue, MatrixErrors, Problem, nearest, quoted, unknown_key
from orchestrator.matrix.read import read_file
from orchestrator.matrix.units import parse_bytes, parse_switch, parse_tokens, parse_watts
from orchestrator.matrix.workloads import from_notation
from orchestrator.matrix.yaml_tree import YamlNode, read_tree
from orchestrator.results import schema
from orchestrator.results.foreign.records import Record

Row = dict[str, Any]

_OURS = {
    *("run", "job_id", "attempt", "trial", "warmup", "cell_id", "repeat", "status", "cause", "detail", "log_tail"),
    *("log_path", "origin", "device_id", "fingerprint", "boot_id", "ended_at", "orchestrate_version", "workload_kind"),
    *("load_timeout_s", "first_token_timeout_s", "trial_timeout_s", "sent_at", "settings", "flags", "output"),
}
COLUMNS: dict[str, schema.Column] = {each.name: each for each in schema.TRIALS if each.name not in _OURS}
"""What a mapping may fill."""
FIGURES = ("decode_tps", "prompt_tps", "ttft_s", "duration_s", "load_s")
"""What is worth a row: a row without one of these was not measured."""
NEEDED = ("engine", "model", "workload")
UNITS: dict[str, dict[str, float]] = {
    "s": {"s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60},
    "bytes": {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "tokens": {"tokens": 1, "K": 1024},
    "tokens/s": {"tokens/s": 1},
    "W": {"W": 1, "mW": 1e-3},
}
"""Unit of our column -> units that theirs may have."""
_MOST_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class ColumnSource:
    """``factor`` makes our unit of theirs; None: the cell is read as in a matrix (``16K``, ``512MiB``, ``on``)."""

    column: str
    factor: float | None = None


@dataclass(frozen=True, slots=True)
class ColumnMap:
    file: str
    columns: Mapping[str, ColumnSource] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    delimiter: str = ","


def read_mapping(path: Path) -> ColumnMap:
    """Raises UsageError with every fault of the file: line, key, what is allowed."""
    try:
        text = read_file(path, _MOST_BYTES).decode("utf-8-sig")
    except BadValue as error:
        raise UsageError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 (byte {error.start})") from None
    return parse_mapping(text, str(path))


def parse_mapping(text: str, file: str) -> ColumnMap:
    tree, problems = read_tree(text, file)
    if tree is None or tree.entries is None:
        wanted = "a mapping with the keys columns and constants belongs here"
        raise MatrixErrors(problems or [Problem(file, tree.line if tree else 0, "", wanted)])
    reader = _MappingReader(file)
    made = reader.read(tree.entries)
    if problems or reader.problems:
        raise MatrixErrors([*problems, *reader.problems])
    return made


class _MappingReader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def _wrong(self, line: int, key: str, message: str) -> None:
        self.problems.append(Problem(self.file, line, key, message))

    def read(self, entries: dict[str, tuple[int, YamlNode]]) -> ColumnMap:
        allowed = ("columns", "constants", "delimiter")
        for key, (line, _) in entries.items():
            if key not in allowed:
                self._wrong(line, key, unknown_key(key, allowed))
        columns = {name: self._source(name, node) for name, node in self._named(entries, "columns").items()}
        constants = {name: self._constant(name, node) for name, node in self._named(entries, "constants").items()}
        for name in columns.keys() & constants.keys():
            self._wrong(entries["constants"][0], f"constants.{name}", "stands in columns too; one of them is enough")
        line, node = entries.get("delimiter", (0, YamlNode(0, scalar=",")))
        delimiter = {"tab": "\t"}.get(node.scalar or "", node.scalar or "")
        if len(delimiter) != 1 or delimiter in '"\r\n':
            self._wrong(line, "delimiter", 'one character belongs here, such as ";", or tab')
        sources = {name: source for name, source in columns.items() if source is not None}
        return ColumnMap(self.file, sources, constants, delimiter)

    def _named(self, entries: dict[str, tuple[int, YamlNode]], section: str) -> dict[str, YamlNode]:
        """The section's entries whose names are columns of ours."""
        line, node = entries.get(section, (0, YamlNode(0)))
        if node.entries is None:
            if node.scalar is not None or node.items is not None:
                self._wrong(line, section, "a mapping (our column: ...) belongs here")
            return {}
        for name, (at, _) in node.entries.items():
            if name not in COLUMNS:
                near = nearest(name, COLUMNS) or "."
                message = f"{quoted(name)} is no column of ours that can be filled{near} Allowed: {', '.join(COLUMNS)}"
                self._wrong(at, f"{section}.{name}", message)
        return {name: inner for name, (_, inner) in node.entries.items() if name in COLUMNS}

    def _source(self, name: str, node: YamlNode) -> ColumnSource | None:
        key = f"columns.{name}"
        if node.scalar is not None:
            return ColumnSource(node.scalar)
        allowed = ("column", "unit", "scale")
        if node.entries is None:
            self._wrong(node.line, key, f"their column's name belongs here, or a mapping with {', '.join(allowed)}")
            return None
        for each, (line, _) in node.entries.items():
            if each not in allowed:
                self._wrong(line, f"{key}.{each}", unknown_key(each, allowed))
        texts = {each: inner.scalar for each, (_, inner) in node.entries.items()}
        if not texts.get("column"):
            self._wrong(node.line, key, "key column is missing: the name of their column")
        return ColumnSource(texts.get("column") or "", self._factor(name, node, texts))

    def _factor(self, name: str, node: YamlNode, texts: Mapping[str, str | None]) -> float | None:
        if texts.get("unit") is None and texts.get("scale") is None:
            return None
        units = UNITS.get(COLUMNS[name].unit, {})
        factor = 1.0
        if (unit := texts.get("unit")) is not None:
            if unit not in units:
                allowed = f"Allowed: {', '.join(units)}" if units else "This column has none"
                self._wrong(node.line, f"columns.{name}.unit", f"{quoted(unit)} is no unit of {name}. {allowed}")
            factor = units.get(unit, 1.0)
        if (scale := texts.get("scale")) is not None:
            number, kind = _number(scale), COLUMNS[name].type
            if number is None or number <= 0 or not (kinds.is_integer(kind) or kinds.is_floating(kind)):
                why = "is not allowed here. Allowed: a number above 0, for a column of numbers"
                self._wrong(node.line, f"columns.{name}.scale", f"{quoted(scale)} {why}")
            factor *= number or 1.0
        return factor

    def _constant(self, name: str, node: YamlNode) -> Any:
        if node.scalar is None:
            self._wrong(node.line, f"constants.{name}", "one value belongs here")
            return None
        try:
            return parse_cell(COLUMNS[name], node.scalar)
        except BadValue as error:
            self._wrong(node.line, f"constants.{name}", str(error))
            return None


def mapped_row(record: Record, mapping: ColumnMap, device: str | None) -> Row:
    """One row of ``trials``; without a figure it says ``not_measured``. Raises UsageError."""
    row = filled(record, mapping) | ({"device": device} if device else {})
    for name in (*NEEDED, "device"):
        if row.get(name) is None:
            also = ", or --device NAME" if name == "device" else ""
            raise record.refused(name, f"nothing says it; give it in columns or constants of {mapping.file}{also}")
    if (work := from_notation(str(row["workload"]))) is not None:
        lengths = {"prompt_tokens_asked": work.prompt_tokens, "max_tokens": work.generate_tokens, "depth": work.depth}
        row = {"workload_kind": "synthetic", "stop": "exact", **lengths} | row | {"workload": work.name}
        if not work.generate_tokens and row.get("prompt_tps") is None:  # tools have one column for both rates
            row["prompt_tps"] = row.pop("decode_tps", None)
    measured = any(row.get(name) is not None for name in FIGURES)
    return row | {"status": "ok" if measured else "not_measured", "flags": []}


def filled(record: Record, mapping: ColumnMap) -> Row:
    """Our columns that the mapping fills, from the record and from its constants."""
    row = dict(mapping.constants)
    for name, source in mapping.columns.items():
        if source.column not in record.fields:
            near = nearest(source.column, record.fields) or "."
            there = ", ".join(quoted(each) for each in record.fields)
            raise record.refused(name, f"no column {quoted(source.column)}{near} There are: {there}")
        value = record.fields[source.column]
        text = str(value).strip() if value is not None else ""
        if text:
            try:
                row[name] = parse_cell(COLUMNS[name], text, source.factor)
            except BadValue as error:
                raise record.refused(f"{source.column} ({name})", str(error)) from None
    return row


def parse_cell(column: schema.Column, text: str, factor: float | None = None) -> Any:
    """A cell as the value of our column. Raises BadValue."""
    if kinds.is_string(column.type):
        return text
    if kinds.is_boolean(column.type):
        return {"1": True, "0": False}.get(text) if text in ("1", "0") else parse_switch(text)
    if kinds.is_timestamp(column.type):
        return _time(text)
    units: dict[str, Callable[[str], float]] = {
        "tokens": lambda written: parse_tokens(written, least=0),
        "bytes": parse_bytes,
        "W": parse_watts,
    }
    if factor is None and column.unit in units:
        return units[column.unit](text)
    number = _number(text)
    least = -math.inf if column.name == "gpu_layers" else 0
    if number is None or number < least:
        raise BadValue(f"{quoted(text)} is not allowed here. Allowed: a number from 0, with a point and without a unit")
    if not kinds.is_integer(column.type):
        return number * (factor or 1.0)
    whole = round(number * (factor or 1.0))
    if not -(2**63) <= whole < 2**63 or (factor is None and whole != number):
        raise BadValue(f"{quoted(text)} is not allowed here. Allowed: a whole number")
    return whole


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise BadValue(f"{quoted(text)} is not a time. Allowed: ISO 8601") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
