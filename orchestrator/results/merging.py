"""Many small files of a run made into one, while others are added and read.

The merged file is written aside, flushed to the disk and read back; it gets its name; only then its parts are removed.
A crash between leaves both, and readers take each attempt once. It merges by size, so that a row is written again
twice at most, and a run of 20,000 jobs has some hundred files at any time: 26 s of reading become one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from agents.files import aside_of, flush_folder
from orchestrator.results import schema
from orchestrator.results.attempt_files import (
    Key,
    Unreadable,
    in_a_line,
    keys_of,
    merged_name,
    read_keys,
    read_parquet,
    whole_keys,
    without_keys,
)
from orchestrator.results.durable import StoreError, durable_file, remove

FAN = 64
"""So many files of one size are merged into one of the next."""
LARGE = FAN * FAN
"""Attempts from which a file is not merged again."""
LEFT_MOST = 16
"""More small files than these are merged when a run has ended."""
JOINED = 16
"""Tables that are made into one as they are read."""
GROUP_BYTES = 32 * 2**20
"""Rows are gathered up to this size, and written as one row group: it bounds the memory that merging takes."""


def parts_to_merge(attempts: Mapping[Path, int], *, has_ended: bool = False) -> list[Path]:
    """Which files to merge into one now, from the number of attempts in each; none where it is not worth it. PURE"""
    small = [path for path, count in attempts.items() if count < FAN]
    middle = [path for path, count in attempts.items() if FAN <= count < LARGE]
    if has_ended:
        return [*middle, *small] if len(middle) + len(small) > LEFT_MOST else []
    return small if len(small) >= FAN else middle if len(middle) >= FAN else []


T = TypeVar("T")


def remove_copies(keys: Mapping[Path, frozenset[Key]]) -> None:
    """Removes files whose attempts all are in one larger file that can be read whole: parts that a crash left."""
    owner = {key: path for path in sorted(keys, key=lambda path: len(keys[path])) for key in keys[path]}
    copies: dict[Path, list[Path]] = {}
    for path, held in keys.items():
        larger = {owner[key] for key in held} - {path}
        if len(larger) == 1 and held <= keys[min(larger)]:
            copies.setdefault(min(larger), []).append(path)
    for larger_one, parts in copies.items():
        with suppress(Unreadable):
            whole_keys(larger_one)
            for path in parts:
                remove(path)


class Stopped(Exception):
    """Merging was broken off: nothing has changed."""


class _PartUnreadable(Exception):
    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


def merge_files(
    parts: Sequence[Path], *, is_stopped: Callable[[], bool] = lambda: False
) -> tuple[Path | None, frozenset[Path]]:
    """The merged file (None: fewer than two could be merged), and the parts that stay: they cannot be read, or hold
    columns that are not known here.

    Raises StoreFull and the like, or Stopped; the parts are then as they were.
    """
    unread: set[Path] = set()
    while len(readable := [path for path in parts if path not in unread]) >= 2:
        try:
            target = _merged(readable, is_stopped)
        except _PartUnreadable as error:
            unread.add(error.path)  # it stays for a person to look at, and what it holds is taken from another part
            continue
        for path in readable:
            if path != target:
                remove(path)
        # the removals too: files that came back after a power cut would slow each read until the next merge
        flush_folder(target.parent)
        return target, frozenset(unread)
    return None, frozenset(unread)


def _merged(parts: Sequence[Path], is_stopped: Callable[[], bool]) -> Path:
    keys = {path: _or_unreadable(path, read_keys) for path in parts}
    every = frozenset[Key]().union(*keys.values())
    target = parts[0].parent / merged_name(every)
    with durable_file(target) as file:
        written = _write(_joined(_rows_once(keys, is_stopped)), file)
        file.flush()
        os.fsync(file.fileno())
        if (found := _read_back(aside_of(target))) != written:
            raise StoreError(f"{target}: read back {found}, written were {written}")
    return target


def _rows_once(keys: Mapping[Path, frozenset[Key]], is_stopped: Callable[[], bool]) -> Iterator[pa.Table]:
    """The rows of each part that no earlier one has: an attempt may be in two, after a crash."""
    seen: set[Key] = set()
    for path, held in keys.items():
        if is_stopped():
            raise Stopped
        if not held <= seen:
            yield without_keys(_or_unreadable(path, _attempts_in), held & seen)
        seen |= held


def _attempts_in(path: Path) -> pa.Table:
    attempts, wanted = read_parquet(path, threads=False), schema.attempt_schema()
    if unknown := set(attempts.schema.names) - set(wanted.names):
        raise Unreadable(f"has columns of a newer version, which would be lost: {', '.join(sorted(unknown))}")
    return schema.conform(attempts, wanted)


def _or_unreadable(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except (Unreadable, pa.ArrowException) as error:
        raise _PartUnreadable(path) from error


@dataclass(slots=True)
class _Content:
    """What was written, or read back."""

    rows: int = 0
    keys: set[Key] = field(default_factory=set)

    def add(self, table: pa.Table) -> None:
        self.rows += table.num_rows
        self.keys |= keys_of(table)

    def __str__(self) -> str:
        return f"{self.rows} rows of {len(self.keys)} attempts"


def _write(tables: Iterator[pa.Table], file: BinaryIO) -> _Content:
    content, group, size = _Content(), list[pa.Table](), 0
    with pq.ParquetWriter(file, schema.attempt_schema(), compression="snappy", write_page_checksum=True) as out:
        for table in tables:
            content.add(table)
            group.append(table)
            size += table.nbytes
            if size >= GROUP_BYTES:
                out.write_table(pa.concat_tables(group))
                group, size = [], 0
        if group:
            out.write_table(pa.concat_tables(group))
    return content


def _joined(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Every few of ``tables`` as one. A table of 150 columns takes 0.5 ms to free, in which no other thread of this
    process runs: hundreds at once would stop the coordinator's loop for as many."""
    while some := list(islice(tables, JOINED)):
        yield pa.concat_tables(some).combine_chunks()


def _read_back(path: Path) -> _Content:
    """Every page is decoded and its checksum compared. Raises StoreError where that fails."""
    content = _Content()
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for number in range(file.num_row_groups):
                content.add(file.read_row_group(number, use_threads=False))
    except (OSError, pa.ArrowException, Unreadable) as error:
        raise StoreError(f"{path}: cannot be read back: {in_a_line(error)}") from error
    return content
