"""JSON, JSON lines and CSV as records that know where they stand in their file. PURE"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from orchestrator.errors import UsageError
from orchestrator.matrix.problems import quoted

MOST_RECORDS = 1_000_000
ALLOWED = "llama-bench's output (-o json, jsonl or csv), or a CSV with --map FILE"


@dataclass(frozen=True, slots=True)
class Record:
    """``where`` is file and line, or file and record; ``fields`` holds texts where the file is a CSV."""

    where: str
    fields: Mapping[str, Any]

    def refused(self, key: str, why: str) -> UsageError:
        return UsageError(f"{self.where}: {key}: {why}")


@dataclass(frozen=True, slots=True)
class RecordFile:
    """``names``: the header of a CSV, in its order; of JSON every key that a record has."""

    kind: str  # "JSON", "JSON lines" or "CSV"
    names: tuple[str, ...]
    records: tuple[Record, ...]


def decoded_text(data: bytes, file: str) -> str:
    """UTF-8, or UTF-16 with its mark: what ``>`` writes in Windows PowerShell. Raises UsageError."""
    kind = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(kind)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{file}:{line}: not UTF-8: byte {error.start} cannot be read; save the file as UTF-8"
        ) from None


def read_records(text: str, file: str, delimiter: str = ",") -> RecordFile:
    """What stands in ``text``; its beginning shows the format. Raises UsageError that names file and line or record."""
    begin = text.lstrip()[:13].lower()
    if not begin:
        raise UsageError(f"{file}: the file is empty. Allowed: {ALLOWED}")
    if begin[0] in "[{":
        found = _json(text, file)
    elif begin[0] == "|":
        raise UsageError(f"{file}: a Markdown table: its rates are rounded. Allowed: {ALLOWED}")
    elif begin.startswith(("create table", "insert into")):
        raise UsageError(f"{file}: SQL cannot be read. Allowed: {ALLOWED}")
    else:
        found = _csv(text, file, delimiter)
    if not found.records:
        raise UsageError(f"{file}: holds no records")
    if len(found.records) > MOST_RECORDS:
        raise UsageError(f"{file}: holds {len(found.records):,} records. Allowed: at most {MOST_RECORDS:,}")
    return found


def _json(text: str, file: str) -> RecordFile:
    first = text.lstrip().splitlines()[0]
    if first.startswith("{") and first.rstrip().endswith("}"):
        lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        items = [(f"{file}:{number}", _loaded(line, file, number)) for number, line in lines]
        return _objects("JSON lines", items)
    whole = _loaded(text, file, 1)
    listed = whole if isinstance(whole, list) else [whole]
    return _objects("JSON", [(f"{file}: record {number}", each) for number, each in enumerate(listed, start=1)])


def _objects(kind: str, items: list[tuple[str, Any]]) -> RecordFile:
    for where, item in items:
        if not isinstance(item, dict):
            raise UsageError(f"{where}: not an object {{key: value}}. Allowed: {ALLOWED}")
    records = tuple(Record(where, item) for where, item in items)
    return RecordFile(kind, tuple(dict.fromkeys(name for each in records for name in each.fields)), records)


def _loaded(text: str, file: str, line: int) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        at = line + error.lineno - 1
        raise UsageError(f"{file}:{at}: not JSON: {error.msg} (column {error.colno}); is the file complete?") from None
    except (ValueError, RecursionError) as error:  # NaN, a number of a million digits, a thousand brackets
        raise UsageError(f"{file}:{line}: not JSON: {str(error)[:100]}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _csv(text: str, file: str, delimiter: str) -> RecordFile:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records = []
    try:
        header = [name.strip() for name in next(reader)]
        if twice := [name for name in header if header.count(name) > 1]:
            raise UsageError(f"{file}:1: column {quoted(twice[0])} stands there twice")
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                if len(cells) != len(header):
                    raise UsageError(f"{file}:{line}: {len(cells)} cells; the header has {len(header)}")
                records.append(Record(f"{file}:{line}", dict(zip(header, cells, strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{file}:{reader.line_num}: not CSV: {error}") from None
    return RecordFile("CSV", tuple(header), tuple(records))
