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

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
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
from orchestrator.results.attempt_files import (
    MERGED,
    Damaged,
    Key,
    Read,
    Unreadable,
    attempt_file_name,
    attempt_files,
    is_merged,
    keys_of,
    merged_name,
    of_all_files,
    read_keys,
    whole_keys,
)
from orchestrator.results.durable import StoreError, durable_file
from orchestrator.results.merging import merge_files, parts_to_merge, remove_copies
from orchestrator.results.reading import read_attempts, read_devices
from orchestrator.results.rows import Kept, devices_of, rows_of_many

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ORDER: list[tuple[str, Literal["ascending", "descending"]]] = [
    ("started_at", "ascending"),
    ("job_id", "ascending"),
    ("attempt", "ascending"),
    ("trial", "ascending"),
]


@dataclass(frozen=True, slots=True)
class Checked:
    """``keys``: the attempts that can be read whole; ``damaged``: the files that cannot."""

    keys: frozenset[Key]
    damaged: tuple[Damaged, ...]


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
    if not _NAME.fullmatch(name) or (what == "job id" and name.startswith(MERGED)):
        raise OrchestrateError(f"{what} {name!r} cannot name a file: letters, digits, '.', '_', '-', at most 128")
    return name


class Store:
    """One writer a run, any number of readers."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        # memories of this process alone: each spares a look at the disk for every append
        self._cleaned: set[str] = set()
        self._devices: set[tuple[str, str]] = set()  # run, name of the file
        self._merged: dict[Path, frozenset[Key]] = {}
        self._unmergeable: set[Path] = set()

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
            _write(self.run_folder(run) / "trials" / merged_name(several), rows)

    def append_rows(self, run: str, attempts: pa.Table) -> Path:
        """Keeps attempts that are rows already, in ``attempt_schema()``, in one file; as durable as ``append``."""
        self._clean_once(run)
        path = self.run_folder(run) / "trials" / merged_name(keys_of(attempts))
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
        single = self.run_folder(run) / "trials" / attempt_file_name(_checked(job_id, "job id"), attempt)
        return single.exists() or (job_id, attempt) in self._readable_keys(run)[0]

    def attempts(self, run: str) -> set[Key]:
        """All attempts kept, by (job_id, attempt). Raises StoreError where a merged file cannot be read."""
        keys, damaged = self._readable_keys(run)
        if damaged:
            raise StoreError(f"{self.run_folder(run)}: a merged file cannot be read: {damaged[0].why}")
        return set(keys)

    def check(self, run: str) -> Checked:
        """Reads every file of a run whole: each column is decoded, each checksum compared."""
        found = self._of_each_file(run, whole_keys)
        damaged = tuple(each for each in found if isinstance(each, Damaged))
        return Checked(frozenset[Key]().union(*(each for each in found if not isinstance(each, Damaged))), damaged)

    def set_aside(self, damaged: Damaged) -> Path:
        """The damaged file under a name that no reader takes for a result: a person may still want it."""
        path, number = damaged.path, 1
        while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
            number += 1
        try:
            path.rename(target)
            flush_folder(path.parent)
        except OSError as error:
            raise StoreError(f"{path}: cannot be renamed: {error.strerror or error}") from error
        return target

    def read(
        self,
        run: str,
        table: str = "trials",
        columns: Iterable[str] | None = None,
        *,
        all_attempts: bool = False,
    ) -> Read:
        """One flat table of a run, and the files that were damaged.

        Of a job that was retried it holds the current attempt; ``all_attempts``: those before it too. ``columns`` names
        those of ``trials`` to read from the disk; the others are then null.
        """
        schema.schema(table)  # a name that is none is an error before anything is read
        folder = self.run_folder(run)
        if not folder.is_dir():
            raise UsageError(f"no run {run!r} in {self.root}. There are: {', '.join(self.runs()) or 'none'}")
        if table == "devices":
            return read_devices(folder / "devices")
        read = read_attempts(folder / "trials", table, columns, all_attempts=all_attempts)
        return replace(read, table=read.table.sort_by(_ORDER)) if table == "trials" else read

    def load(self, run: str, table: str = "trials", *, all_attempts: bool = False) -> pa.Table:
        """As ``read``; each damaged file is a DamagedFileWarning."""
        return self.read(run, table, all_attempts=all_attempts).warned()

    def compact(self, run: str) -> Path | None:
        """Merges all files of a run into one; None where that changes nothing (``merging`` says how it is done).

        Damaged files, and those with columns of a newer Orchestrate, stay as they are.
        """
        return self._merge(list(self._mergeable(run)))

    def merge_small(self, run: str, *, has_ended: bool = False, is_stopped: Callable[[], bool] = lambda: False) -> bool:
        """Merges small files of a run, where there are enough; whether it did. Beside ``append`` and readers.

        ``has_ended``: nothing is added any more, so fewer are enough. Raises StoreFull and the like, and Stopped.
        """
        keys = self._mergeable(run)
        remove_copies(keys)
        sizes = {path: len(held) for path, held in keys.items() if path.exists()}
        return self._merge(parts_to_merge(sizes, has_ended=has_ended), is_stopped) is not None

    def _merge(self, parts: Sequence[Path], is_stopped: Callable[[], bool] = lambda: False) -> Path | None:
        target, unread = merge_files(parts, is_stopped=is_stopped)
        self._unmergeable |= unread
        if target is not None:
            self._merged.pop(target, None)  # the same keys give the same name: it may be of a file of before
        return target

    def _mergeable(self, run: str) -> dict[Path, frozenset[Key]]:
        """Files that may be merged, with their attempts."""
        folder = self.run_folder(run) / "trials"
        found: dict[Path, frozenset[Key]] = {}
        for path in attempt_files(folder):
            # a file that cannot be read stays for a person to look at
            with suppress(Unreadable):
                if path not in self._unmergeable and (keys := self._keys(path)):
                    found[path] = keys
        return found

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

    def _keys(self, path: Path) -> frozenset[Key]:
        """Attempts in a file. Raises Unreadable."""
        if path not in self._merged:
            keys = read_keys(path)
            if not is_merged(path):
                return keys
            self._merged[path] = keys
        return self._merged[path]

    def _readable_keys(self, run: str) -> tuple[frozenset[Key], list[Damaged]]:
        found = self._of_each_file(run, self._keys)
        keys = frozenset[Key]().union(*(each for each in found if not isinstance(each, Damaged)))
        return keys, [each for each in found if isinstance(each, Damaged)]

    def _of_each_file(self, run: str, prepare: Callable[[Path], frozenset[Key]]) -> list[frozenset[Key] | Damaged]:
        return list(of_all_files(self.run_folder(run) / "trials", prepare).values())


def _write(path: Path, table: pa.Table) -> None:
    """Serialised in memory first, so that every error of the disk comes from one place and with its number."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="snappy", write_page_checksum=True)
    with durable_file(path) as file:
        file.write(sink.getvalue())
