"""Results on disk: one Parquet file a job attempt, whole or not there.

::

    ROOT/runs/RUN/trials/JOB-ATTEMPT.parquet    one attempt: trials with tokens, steps, readings nested
                  trials/compact-HASH.parquet   many attempts: that came together, or were merged by ``compact``
                  devices/FINGERPRINT-ID.parquet
                  logs/JOB-ATTEMPT.log          the engine's log

A name that begins with a dot is a writer's unfinished business. Compression is snappy: serialising an attempt costs
1.7 ms; zstd costs 5.4 and saves nothing of the 47 KB. Reading costs 1.5 ms a file: ``compact`` a run of thousands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import Refused, Report
from agents.files import flush_folder, remove_abandoned
from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.results import schema
from orchestrator.results.attempt_files import Read, Unreadable, can_merge, read_all, read_parquet
from orchestrator.results.durable import StoreError, durable_file, remove
from orchestrator.results.flat import columns_needed, flatten
from orchestrator.results.rows import Kept, devices_of, rows_of_many

Key = tuple[str, int]
"""(job_id, attempt)"""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ATTEMPT = re.compile(r"(.+)-(\d+)\.parquet")
_COMPACT = "compact-"
_ORDER: list[tuple[str, Literal["ascending", "descending"]]] = [
    ("started_at", "ascending"),
    ("job_id", "ascending"),
    ("attempt", "ascending"),
    ("trial", "ascending"),
]
_GROUP_FILES = 256  # attempts in one row group of a merged file: bounds memory while merging


@cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("orchestrate-bench")
    except PackageNotFoundError:
        return ""


def _checked(name: str, what: str) -> str:
    """``name`` becomes part of a path: it must not lead out of the store, nor pass for a merged file."""
    # the second: an attempt of such a job would be read as a merged file, whose keys stand inside it
    if not _NAME.fullmatch(name) or (what == "job id" and name.startswith(_COMPACT)):
        raise OrchestrateError(f"{what} {name!r} cannot name a file: letters, digits, '.', '_', '-', at most 128")
    return name


class Store:
    """One writer a run, any number of readers."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        # three memories of this process alone: each spares a look at the disk for every append
        self._cleaned: set[str] = set()
        self._devices: set[tuple[str, str]] = set()  # run, name of the file
        self._merged: dict[Path, frozenset[Key]] = {}

    def run_folder(self, run: str) -> Path:
        return self.root / "runs" / _checked(run, "run")

    def runs(self) -> tuple[str, ...]:
        """Names of the runs that have results, sorted."""
        folder = self.root / "runs"
        names = (each.name for each in folder.iterdir() if (each / "trials").is_dir()) if folder.is_dir() else ()
        return tuple(sorted(name for name in names if _NAME.fullmatch(name)))

    def append(self, job: Job, report: Report, device: Device | None) -> Path:
        """Keeps one attempt. When this returns, it survives a loss of power; a second call with it changes nothing.

        Raises StoreFull, StoreNotWritable or StoreError and leaves no half file.
        """
        name = self._name(report)
        # log and device are written first: the log's path stands in the rows
        rows = rows_of_many([self._beside(Kept(job, report, device))], _version())
        path = self.run_folder(job.run_id) / "trials" / f"{name}.parquet"
        _write(path, rows)
        return path

    def append_many(self, attempts: Sequence[Kept]) -> None:
        """As ``append`` for each; those of one run that come together go into one file, so that it costs one flush."""
        runs: dict[str, dict[Key, Kept]] = {}
        for each in attempts:  # one that is there twice is kept once
            runs.setdefault(each.job.run_id, {})[each.report.job_id, each.report.attempt] = each
        for run, several in runs.items():
            if len(several) == 1:
                (one,) = several.values()
                self.append(one.job, one.report, one.device)
                continue
            rows = rows_of_many([self._beside(each) for each in several.values()], _version())
            # the name is a hash of the keys: a second try after a full disk replaces its own file
            _write(self.run_folder(run) / "trials" / _merged_name(sorted(several)), rows)

    def append_rows(self, run: str, attempts: pa.Table) -> Path:
        """Keeps attempts that are rows already, in ``attempt_schema()``, in one file; as durable as ``append``."""
        self._clean_once(run)
        path = self.run_folder(run) / "trials" / _merged_name(sorted(set(_pairs(attempts))))
        place = attempts.schema.get_field_index("orchestrate_version")
        # the version that wrote the file, whatever the rows said before: `orchestrate_version` promises that
        versions = pa.array([_version()] * attempts.num_rows, pa.string())
        _write(path, attempts.set_column(place, attempts.schema.field(place), versions))
        self._merged.pop(path, None)
        return path

    def _name(self, report: Report) -> str:
        return f"{_checked(report.job_id, 'job id')}-{report.attempt}"

    def _beside(self, attempt: Kept) -> Kept:
        """Keeps what lies beside the rows, the log and the device; returns the attempt as its rows then have it."""
        run, report = attempt.job.run_id, attempt.report
        self._name(report)  # checked before anything is written
        self._clean_once(run)
        if attempt.device is not None:
            self._keep_device(self.run_folder(run), run, attempt.device)
        if not report.log or isinstance(report.outcome, Refused):
            return attempt
        return replace(attempt, report=replace(report, outcome=replace(report.outcome, log_path=self.keep_log(report))))

    def keep_log(self, report: Report) -> str:
        """The engine's log of one attempt; its path, relative to the run's folder."""
        path = f"logs/{self._name(report)}.log"
        # not flushed: a log only helps people, and a flush costs more than all else that an attempt writes
        with durable_file(self.run_folder(report.run_id) / path, flush=False) as file:
            file.write(report.log.encode("utf-8", "replace"))
        return path

    def has(self, run: str, job_id: str, attempt: int) -> bool:
        """False also for an attempt in a merged file that cannot be read."""
        # the single file is looked for first, by its name: only merged ones have to be opened
        single = self.run_folder(run) / "trials" / f"{_checked(job_id, 'job id')}-{attempt}.parquet"
        if single.exists():
            return True
        merged = (path for path in self._files(run) if _is_merged(path) and self._has_keys(path))
        return any((job_id, attempt) in self._keys(path) for path in merged)

    def attempts(self, run: str) -> set[Key]:
        """All attempts kept, by (job_id, attempt). Raises StoreError where a merged file cannot be read."""
        try:
            return set[Key]().union(*(self._keys(path) for path in self._files(run)))
        except Unreadable as error:
            raise StoreError(f"{self.run_folder(run)}: a merged file cannot be read: {error}") from error

    def read(self, run: str, table: str = "trials", columns: Iterable[str] | None = None) -> Read:
        """One flat table of a run, and the files that were damaged.

        ``columns`` names those of ``trials`` to read from the disk; the others are then null.
        """
        wanted = schema.schema(table)
        folder = self.run_folder(run)
        if not folder.is_dir():
            raise UsageError(f"no run {run!r} in {self.root}. There are: {', '.join(self.runs()) or 'none'}")
        if table == "devices":
            files = sorted((folder / "devices").glob("[!.]*.parquet"))
            return read_all(files, lambda path: schema.conform(read_parquet(path), wanted), wanted)
        names = (
            columns_needed(table) if columns is None else sorted({*columns, "job_id", "attempt", "trial", "started_at"})
        )
        # three times, not for ever: a file that vanishes again and again is another trouble, and is named as damaged
        for _ in range(3):
            takes = dict(self._takes(self._files(run)))
            read = _read_flat(takes, table, names)
            if all(each.path.exists() for each in read.damaged):
                break  # else a file was merged away between listing and reading: list again
        if table == "trials":
            return replace(read, table=read.table.sort_by(_ORDER))
        return read

    def load(self, run: str, table: str = "trials") -> pa.Table:
        """As ``read``; each damaged file is a DamagedFileWarning."""
        return self.read(run, table).warned()

    def compact(self, run: str) -> Path | None:
        """Merges the files of a run into one, when none of it is being appended; None where that changes nothing.

        The merged file is durable before the first single one goes; a crash between leaves both, and readers
        take each attempt once. Damaged files, and those with columns of a newer Orchestrate, stay as they are.
        """
        files = [path for path in self._files(run) if can_merge(path) and self._has_keys(path)]
        if len(files) < 2:
            return None
        # takes are in the order of _files, merged ones first: an attempt in both is taken from the merged one
        takes = list(self._takes(files))
        keys = sorted(set[Key]().union(*(self._keys(path) for path in files)))
        target = self.run_folder(run) / "trials" / _merged_name(keys)
        with (
            durable_file(target) as file,
            pq.ParquetWriter(file, schema.attempt_schema(), compression="snappy") as out,
        ):
            groups = (takes[start : start + _GROUP_FILES] for start in range(0, len(takes), _GROUP_FILES))
            damaged = {path for group in groups for path in _merge(group, out)}
        # the same keys give the same name: what was remembered may be of a file of before
        self._merged.pop(target, None)
        merged = dict(takes).keys() - damaged
        for path in files:
            if path != target and (path in merged or not damaged):  # a damaged merged file may not be the last copy
                remove(path)
        # the removals too: files that came back after a power cut would slow each read until the next merge
        flush_folder(target.parent)
        return target

    def _keep_device(self, folder: Path, run: str, device: Device) -> None:
        """Once a fingerprint and device: two machines of one kind can share a fingerprint."""
        name = f"{_checked(device.fingerprint or 'unknown', 'fingerprint')}-{_checked(device.device_id, 'device id')}"
        if (run, name) in self._devices:
            return
        path = folder / "devices" / f"{name}.parquet"
        # never written again: facts of a fingerprint do not change, and another process may read the file now
        if not path.exists():
            _write(path, devices_of(run, [device]))
        self._devices.add((run, name))

    def _clean_once(self, run: str) -> None:
        if run not in self._cleaned:
            for part in ("trials", "devices", "logs"):
                remove_abandoned(self.run_folder(run) / part)
            self._cleaned.add(run)

    def _files(self, run: str) -> list[Path]:
        """Files with attempts, merged ones first."""
        folder = self.run_folder(run) / "trials"
        names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208  5,000 names: no Path for each
        kept = [name for name in names if name.endswith(".parquet") and not name.startswith(".")]
        return [folder / name for name in sorted(kept, key=lambda name: (not name.startswith(_COMPACT), name))]

    def _keys(self, path: Path) -> frozenset[Key]:
        """Attempts in a file. Raises Unreadable."""
        if not _is_merged(path):
            found = _ATTEMPT.fullmatch(path.name)
            return frozenset({(found[1], int(found[2]))} if found else ())
        if path not in self._merged:
            keys = read_parquet(path, ["job_id", "attempt"])
            self._merged[path] = frozenset(_pairs(keys))
        return self._merged[path]

    def _has_keys(self, path: Path) -> bool:
        try:
            # an empty file is no reason to merge, and one that cannot be read stays for a person to look at
            return bool(self._keys(path))
        except Unreadable:
            return False

    def _takes(self, files: Iterable[Path]) -> Iterator[tuple[Path, frozenset[Key]]]:
        """Files to read, each with the attempts to leave out because an earlier file has them."""
        seen: set[Key] = set()
        for path in files:
            try:
                keys = self._keys(path)
            except Unreadable:
                keys = frozenset()  # it is named as damaged when it is read
            # a file without keys is read all the same: it is empty, or damaged and has to be named
            if not keys or not keys <= seen:
                yield path, keys & seen
            seen |= keys


def _read_flat(takes: Mapping[Path, frozenset[Key]], table: str, names: Sequence[str]) -> Read:
    def prepare(path: Path) -> pa.Table:
        return flatten(_without(read_parquet(path, names), takes[path]), table)

    return read_all(list(takes), prepare, schema.schema(table))


def _merged_name(keys: Sequence[Key]) -> str:
    return f"{_COMPACT}{sha256(repr(list(keys)).encode()).hexdigest()[:16]}.parquet"


def _is_merged(path: Path) -> bool:
    return path.name.startswith(_COMPACT)


def _write(path: Path, table: pa.Table) -> None:
    """Serialised in memory first, so that every error of the disk comes from one place and with its number."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="snappy")
    with durable_file(path) as file:
        file.write(sink.getvalue())


def _without(attempts: pa.Table, keys: frozenset[Key]) -> pa.Table:
    if not keys:
        return attempts
    return attempts.filter(pa.array([pair not in keys for pair in _pairs(attempts)]))


def _pairs(attempts: pa.Table) -> list[Key]:
    jobs, counts = attempts.column("job_id").to_pylist(), attempts.column("attempt").to_pylist()
    # published rows have no attempt: they count as 0, as in comparisons
    return [(str(job), int(count or 0)) for job, count in zip(jobs, counts, strict=True)]


def _merge(group: Sequence[tuple[Path, frozenset[Key]]], out: pq.ParquetWriter) -> list[Path]:
    """Appends a group of files to ``out`` as one row group; which of them could not be read."""
    takes, wanted = dict(group), schema.attempt_schema()

    def prepare(path: Path) -> pa.Table:
        return schema.conform(_without(read_parquet(path), takes[path]), wanted)

    read = read_all(list(takes), prepare, wanted)
    if read.table.num_rows:
        out.write_table(read.table)
    return [each.path for each in read.damaged]
