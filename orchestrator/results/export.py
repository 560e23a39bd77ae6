"""A flat table as a file for other tools: Parquet, Arrow IPC, CSV, JSON lines; and back."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pyarrow.types as kinds
from pyarrow import ipc

from orchestrator.errors import UsageError
from orchestrator.matrix.problems import nearest, quoted
from orchestrator.results.durable import durable_file

_BATCH_ROWS = 10_000


def export(table: pa.Table, path: str | Path, format: str | None = None) -> Path:
    """Writes ``table`` whole or not at all. ``format`` of ``EXPORT_FORMATS``; None: by the ending of ``path``.

    CSV holds nested columns as JSON, times as ISO 8601, null as nothing and an empty text as ``""``. Raises
    UsageError for an unknown format, StoreFull and the like for the disk.
    """
    path = Path(path)
    chosen = format_of(path) if format is None else export_format(format)
    with durable_file(path) as file:
        chosen.write(table, file)
    return path


def _write_arrow(table: pa.Table, file: BinaryIO) -> None:
    sink = pa.BufferOutputStream()
    with ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    file.write(sink.getvalue())


def _write_json_lines(table: pa.Table, file: BinaryIO) -> None:
    for line in json_lines(table):
        file.write(line.encode())


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """``endings`` of its files; ``write`` writes a table into an open binary file such as standard output."""

    name: str
    endings: tuple[str, ...]
    write: Callable[[pa.Table, BinaryIO], None]


EXPORT_FORMATS: tuple[ExportFormat, ...] = (
    ExportFormat("parquet", (".parquet",), lambda table, file: pq.write_table(table, file, compression="zstd")),
    ExportFormat("arrow", (".arrow", ".feather"), _write_arrow),
    ExportFormat("csv", (".csv",), lambda table, file: pa_csv.write_csv(_flattened(table), file)),
    ExportFormat("jsonl", (".jsonl", ".ndjson"), _write_json_lines),
)
"""The formats of ``orchestrate export``, one line each; ``loading`` reads these four back."""


def format_of(path: Path) -> ExportFormat:
    """The format that a file's ending names. Raises UsageError."""
    by_ending = {ending: each for each in EXPORT_FORMATS for ending in each.endings}
    if path.suffix.lower() not in by_ending:
        raise UsageError(f"{path}: format not known by its ending. Allowed: {', '.join(by_ending)}")
    return by_ending[path.suffix.lower()]


def export_format(name: str) -> ExportFormat:
    """Raises UsageError for an unknown one, and names those that there are."""
    by_name = {each.name: each for each in EXPORT_FORMATS}
    if name not in by_name:
        raise UsageError(f"unknown format {quoted(name)}{nearest(name, by_name) or '.'} Allowed: {', '.join(by_name)}")
    return by_name[name]


def json_lines(table: pa.Table) -> Iterator[str]:
    """One JSON object a row; a number that JSON has no word for (nan, inf) becomes null."""
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        for row in batch.to_pylist(maps_as_pydicts="strict"):
            yield json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _flattened(table: pa.Table) -> pa.Table:
    columns: list[Any] = []
    for name in table.schema.names:
        column = table.column(name)
        if kinds.is_nested(column.type) or kinds.is_timestamp(column.type):
            columns.append(
                pa.array([_text(value) for value in column.to_pylist(maps_as_pydicts="strict")], pa.string())
            )
        else:
            columns.append(column)
    return pa.table(columns, names=table.schema.names)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, datetime):
        return value.isoformat() if value else None
    return json.dumps(_plain(value), ensure_ascii=False)


def read_csv(path: Path, wanted: pa.Schema) -> pa.Table:
    """A CSV that ``export`` wrote. Raises pa.ArrowInvalid or ValueError where a cell is not of its column's type."""
    types = {field.name: field.type for field in wanted if not _as_text(field.type)}
    texts = {field.name: pa.string() for field in wanted if _as_text(field.type)}
    convert = pa_csv.ConvertOptions(
        column_types={**types, **texts}, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
    )
    table = pa_csv.read_csv(path, parse_options=pa_csv.ParseOptions(newlines_in_values=True), convert_options=convert)
    for position, name in enumerate(table.schema.names):
        if name in texts:
            kind = wanted.field(name).type
            values = [_parsed(text, kind) for text in table.column(name).to_pylist()]
            table = table.set_column(position, name, pa.array(values, kind))
    return table


def read_json_lines(path: Path, wanted: pa.Schema) -> pa.Table:
    """A file that ``export`` wrote as JSON lines. Raises ValueError or pa.ArrowInvalid as ``read_csv``."""
    batches: list[pa.RecordBatch] = []
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            rows.append(_known(json.loads(line), wanted))
            if len(rows) == _BATCH_ROWS:
                batches.append(_batch(rows, wanted))
                rows = []
    batches.append(_batch(rows, wanted))
    return pa.Table.from_batches(batches, schema=wanted)


def _known(row: Any, wanted: pa.Schema) -> dict[str, Any]:
    unknown = [str(name) for name in row if name not in wanted.names] if isinstance(row, dict) else ["not an object"]
    if unknown:
        raise ValueError(f"unknown column {quoted(unknown[0])}")
    return dict(row)


def _batch(rows: Iterable[dict[str, Any]], wanted: pa.Schema) -> pa.RecordBatch:
    rows = list(rows)
    columns: list[Any] = [
        pa.array([_typed(row.get(field.name), field.type) for row in rows], field.type) for field in wanted
    ]
    return pa.RecordBatch.from_arrays(columns, schema=wanted)


def _as_text(kind: pa.DataType) -> bool:
    return kinds.is_nested(kind) or kinds.is_timestamp(kind)


def _parsed(text: str | None, kind: pa.DataType) -> Any:
    if text is None or kinds.is_timestamp(kind):
        return _typed(text, kind)
    return _typed(json.loads(text), kind)


def _typed(value: Any, kind: pa.DataType) -> Any:
    """What ``pa.array`` takes: datetimes from ISO 8601, maps as pairs."""
    if value is None:
        return None
    if kinds.is_timestamp(kind):
        return datetime.fromisoformat(value)
    return list(value.items()) if kinds.is_map(kind) else value
