"""Files with attempts: their names, their listing, their reading; one that is damaged is named, the others are read.

Another process may merge files meanwhile (``merging``): it removes a file only when another one that holds its attempts
is there. So whoever lists and reads takes what has vanished for merged, and looks again.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.results import schema
from orchestrator.results.durable import StoreError

Key = tuple[str, int]
"""(job_id, attempt)"""

MERGED = "compact-"
_ATTEMPT = re.compile(r"(.+)-(\d+)\.parquet")
LISTINGS_MOST = 100
"""A file that is merged away before it can be read has the folder listed again; each time less remains to be read.
After so many times it is another trouble, and the file is named as damaged."""

OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
"""Errors that say nothing of the file: this process, or the machine, has no more to give."""

T = TypeVar("T")


class DamagedFileWarning(UserWarning):
    """A file of a run that could not be read; the others were."""


class Unreadable(Exception):
    """``str(error)`` says why. Never leaves this package: it becomes ``Damaged``."""


class Vanished(Unreadable):
    """The file was there when its folder was listed."""


@dataclass(frozen=True, slots=True)
class Damaged:
    path: Path
    why: str
    has_vanished: bool = False

    def __str__(self) -> str:
        return f"{self.path}: left out, cannot be read: {self.why}"


@dataclass(frozen=True, slots=True)
class Read:
    """``table`` from all files but the damaged ones; ``keys``: the attempts in those files, the superseded ones too."""

    table: pa.Table
    damaged: tuple[Damaged, ...]
    keys: frozenset[Key] = frozenset()

    def warned(self) -> pa.Table:
        """The table; each damaged file is a DamagedFileWarning."""
        for each in self.damaged:
            warnings.warn(str(each), DamagedFileWarning, stacklevel=3)
        return self.table


def attempt_file_name(job_id: str, attempt: int) -> str:
    return f"{job_id}-{attempt}.parquet"


def merged_name(keys: Iterable[Key]) -> str:
    return f"{MERGED}{sha256(repr(sorted(keys)).encode()).hexdigest()[:16]}.parquet"


def is_merged(path: Path) -> bool:
    return path.name.startswith(MERGED)


def key_in_name(path: Path) -> Key | None:
    """The attempt of a file that holds one; None for a merged file, or one with a name of somebody else's."""
    found = None if is_merged(path) else _ATTEMPT.fullmatch(path.name)
    return (found[1], int(found[2])) if found else None


def attempt_files(folder: Path) -> list[Path]:
    """The files of a run's folder ``trials``, merged ones first. Raises StoreError where it cannot be listed."""

    def names() -> frozenset[str]:
        try:
            return frozenset(os.listdir(folder))  # noqa: PTH208  5,000 names: no Path for each
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise StoreError(f"{folder}: cannot be read: {error.strerror or error}") from error

    kept = [name for name in settled(names) if name.endswith(".parquet") and not name.startswith(".")]
    return [folder / name for name in sorted(kept, key=lambda name: (not name.startswith(MERGED), name))]


def settled(names: Callable[[], frozenset[str]]) -> frozenset[str]:
    """The names of a folder in which files are merged: none of them vanished while they were listed.

    A listing is no moment: it may miss a new merged file, which came behind its place, and then the parts as well,
    which are gone when it gets to theirs. Nothing is missed by a listing from which nothing of the one before it is
    missing; new names do not matter. PURE but for ``names``.
    """
    before, now = names(), names()
    while before - now:
        before, now = now, names()
    return now


def read_parquet(path: Path, columns: Iterable[str] | None = None, *, threads: bool = True) -> pa.Table:
    """``path``, of ``columns`` those it has. Raises Unreadable; StoreError where that is not the file's fault.

    ``ParquetFile`` and not ``read_table``: 1.3 ms instead of 3 for a file of 100 columns.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            have = file.schema_arrow.names
            # files of older versions lack newer columns: schema.conform fills them with nulls
            wanted = None if columns is None else [name for name in columns if name in have]
            return file.read(columns=wanted, use_threads=threads)
    except FileNotFoundError as error:
        raise Vanished("it is no longer there") from error
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in OURS):
            raise StoreError(f"{path}: cannot be read now: {in_a_line(error)}") from error
        raise Unreadable(in_a_line(error)) from error


def keys_of(attempts: pa.Table) -> frozenset[Key]:
    """The attempts that have rows in a table with ``job_id`` and ``attempt``; rows without a job (published ones) are
    of none. Raises Unreadable where it has no such columns."""
    try:
        pairs = pa.table(
            {"job": attempts.column("job_id").cast(pa.string()), "attempt": attempts.column("attempt").cast(pa.int64())}
        )
    except (KeyError, pa.ArrowException) as error:
        raise Unreadable(f"no column job_id and attempt: {in_a_line(error)}") from error
    once = pairs.group_by(["job", "attempt"]).aggregate([])
    jobs, numbers = once.column("job").to_pylist(), once.column("attempt").to_pylist()
    # imported rows may have no attempt: they count as 0, as in comparisons
    return frozenset((job, number or 0) for job, number in zip(jobs, numbers, strict=True) if job is not None)


def keys_in(path: Path, attempts: pa.Table) -> frozenset[Key]:
    """The attempts in a file: by its name, or by ``attempts``, what stands in it. Raises Unreadable."""
    return keys_of(attempts) if (key := key_in_name(path)) is None else frozenset({key})


def read_keys(path: Path) -> frozenset[Key]:
    """As ``keys_in``; a file of one attempt is not opened."""
    if (key := key_in_name(path)) is not None:
        return frozenset({key})
    return keys_of(read_parquet(path, ["job_id", "attempt"]))


def whole_keys(path: Path) -> frozenset[Key]:
    """The attempts in a file of which each column can be decoded, and each checksum is right. Raises Unreadable."""
    attempts = read_parquet(path)
    try:
        return keys_in(path, schema.conform(attempts, schema.attempt_schema()))
    except pa.ArrowException as error:
        raise Unreadable(in_a_line(error)) from error


def without_keys(rows: pa.Table, keys: Collection[Key]) -> pa.Table:
    """``rows`` of a table with ``job_id`` and ``attempt`` that are of none of ``keys``."""
    if not keys:
        return rows
    numbers: Any = rows.column("attempt").cast(pa.int64())
    attempts: Any = pc.fill_null(numbers, 0)
    jobs: Any = rows.column("job_id")
    written: Any = pc.binary_join_element_wise(jobs, attempts.cast(pa.string()), "/")
    gone = pc.is_in(written, value_set=pa.array([f"{job}/{number}" for job, number in keys], pa.string()))
    return rows.filter(pc.invert(gone))


def of_each(paths: Sequence[Path], prepare: Callable[[Path], T]) -> list[T | Damaged]:
    """``prepare`` of each path, in a few threads (Arrow lets go of the interpreter lock), in that order.

    ``prepare`` may raise Unreadable or pa.ArrowException: its file is then damaged.
    """

    def attempt(path: Path) -> T | Damaged:
        # inside the thread: an exception out of pool.map would lose the results of all files behind this one
        try:
            return prepare(path)
        except (Unreadable, pa.ArrowException) as error:
            return Damaged(path, in_a_line(error), has_vanished=isinstance(error, Vanished))

    # a pool costs more to start than a few files to read
    if len(paths) < 8:
        return [attempt(path) for path in paths]
    # one more than cores: one of them waits for the disk while the others decode
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
        return list(pool.map(attempt, paths, chunksize=16))


def of_all_files(folder: Path, prepare: Callable[[Path], T]) -> dict[Path, T | Damaged]:
    """As ``of_each``, of the files of a run's folder ``trials``, while another process may merge some of them.

    What was read stays, though its file is merged away: it holds what the merged one does, and that is read as well.
    """
    found: dict[Path, T | Damaged] = {}
    for _ in range(LISTINGS_MOST):
        found = {path: each for path, each in found.items() if not _has_vanished(each)}
        fresh = [path for path in attempt_files(folder) if path not in found]
        found |= zip(fresh, of_each(fresh, prepare), strict=True)
        if not any(map(_has_vanished, found.values())):
            break
    return found


def _has_vanished(found: object) -> bool:
    return isinstance(found, Damaged) and found.has_vanished


def in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
