"""A damaged, lost or outdated ledger is made anew: from the newest backup that is whole, and from what runs/ holds.

The new one is written aside and examined before anything is asked or changed. The lock of the home is the caller's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from agents.contract.wire_json import to_json
from agents.files import aside_of, flush_folder, rename_durably
from orchestrator.dispatch.home import check_ledger_there
from orchestrator.dispatch.ledger.backup import copy_database, newest_good
from orchestrator.dispatch.ledger.file import NAME, PARTS, LedgerDamaged, check_pages
from orchestrator.dispatch.ledger.ledger import JobRow, Ledger
from orchestrator.dispatch.ledger.record import RunRecord, RunState, read_record, read_state, recorded_runs
from orchestrator.dispatch.lost_rows import lost_rows
from orchestrator.dispatch.machine_log import LogFilter, read_log
from orchestrator.dispatch.runs import StoredAttempt, stored_attempts
from orchestrator.errors import OrchestrateError
from orchestrator.results.attempt_files import Damaged, key_in_name
from orchestrator.results.store import Store

EXAMINED_S = 3600.0
_SENT = re.compile(r"(\S+Z) \S+ .*\bjob=(\S+) attempt=(\d+) device=(\S+) Send\b")


@dataclass(frozen=True, slots=True)
class Sent:
    """The latest sending of a job that the log still has."""

    attempt: int
    device_id: str
    unix_s: float


@dataclass(frozen=True, slots=True)
class RunRepair:
    """``done``: jobs that their rows show to be done, and the ledger did not; ``put_back``: whose rows are unreadable.

    ``missing``: done jobs of which no file holds a row: they stay done, for the files may lie elsewhere.
    """

    run_id: str
    is_added: bool
    jobs: int
    remaining: int
    done: int
    put_back: int
    missing: int

    @property
    def is_changed(self) -> bool:
        return self.is_added or bool(self.done or self.put_back)


@dataclass(frozen=True, slots=True)
class Repair:
    """A new ledger that is ready. ``damage``: what is wrong with the present one; empty: it is whole.

    ``base``: the present ledger, a backup, or None where it is made of runs/ alone.
    """

    root: Path
    made: Path
    damage: str
    base: Path | None
    runs: tuple[RunRepair, ...]
    unknown: tuple[str, ...]
    damaged: tuple[Damaged, ...]

    @property
    def is_needed(self) -> bool:
        return bool(self.damage) or any(run.is_changed for run in self.runs)

    def apply(self) -> Path | None:
        """Puts it in its place; where the present one is kept, if there is one. Raises OrchestrateError."""
        path = self.root / NAME
        try:
            kept = _keep(path, "damaged" if self.damage else "before-repair")
            rename_durably(self.made, path)
        except OSError as error:
            raise OrchestrateError(f"{path}: cannot be replaced: {error.strerror or error}") from error
        # behind the ledger: after a crash between, they are found damaged once more, and their jobs are pending
        for each in self.damaged:
            Store(self.root).set_aside(each)
        return kept

    def discard(self) -> None:
        _remove(self.made)


def prepare(root: Path) -> Repair:
    """Raises OrchestrateError."""
    path = root / NAME
    damage = _damage(path)
    base = newest_good(root) if damage else path if path.exists() else None
    made = aside_of(path)
    _remove(made)
    try:
        if base is not None:
            copy_database(base, made)
        with closing(Ledger(made)) as ledger:
            runs, unknown, damaged = _bring_up_to_date(ledger, root, is_present=base == path)
        check_pages(made, EXAMINED_S)
    except BaseException:
        _remove(made)
        raise
    if base != path:
        unknown = (*unknown, *_unknown_without(base))
    return Repair(root, made, damage, base, runs, unknown, damaged)


def _damage(path: Path) -> str:
    try:
        check_ledger_there(path.parent)
        if path.exists():
            check_pages(path, EXAMINED_S)
    except LedgerDamaged as error:
        return str(error).partition("; your rows")[0]
    return ""


def _unknown_without(base: Path | None) -> tuple[str, ...]:
    since = "" if base is None else f" after the backup {base.name}"
    return (
        f"attempts{since} that gave no row, how often a job had failed, and attempt numbers that the log has no more:"
        " a job that was under way may be measured again, and counts once",
        f"devices that joined{since} and have no job in a run",
    )


def _bring_up_to_date(
    ledger: Ledger, root: Path, *, is_present: bool
) -> tuple[tuple[RunRepair, ...], tuple[str, ...], tuple[Damaged, ...]]:
    """``is_present``: it is the ledger that stands, which knows best what was asked of a run."""
    store, sent = Store(root), _sent_by_the_log(root)
    runs: list[RunRepair] = []
    unknown: list[str] = []
    damaged: list[Damaged] = []
    with ledger.batch() as db:
        known = {row.id for row in ledger.runs()}
        if not is_present:
            db.execute("DELETE FROM leases")
        for run_id in sorted({*known, *recorded_runs(root)}):
            try:
                if run_id not in known:
                    _add(ledger, read_record(root, run_id))
            except OrchestrateError as error:
                unknown.append(f"run {run_id}: {error}; its results are read as before")
                continue
            state = None if is_present and run_id in known else read_state(root, run_id)
            if state is not None:
                ledger.set_run(run_id, state.status, state.priority)
            repaired, files = _mend_run(ledger, store, run_id, state, sent, is_added=run_id not in known)
            runs.append(repaired)
            damaged += files
    unknown += [
        f"run {run_id}: its matrix, for an older version recorded none: its results are read as before, and what it had"
        " not measured is not known"
        for run_id in _without_record(store, {*known, *recorded_runs(root)})
    ]
    return tuple(runs), tuple(unknown), tuple(damaged)


def _add(ledger: Ledger, record: RunRecord) -> None:
    ledger.add(
        record.run_id,
        record.name,
        record.matrix_json,
        record.job_rows(),
        priority=record.priority,
        created_unix_s=record.created_unix_s,
    )
    ledger.set_run(record.run_id, record.status)
    facts = [(each.device_id, record.created_unix_s, to_json(each).decode()) for each in record.devices]
    with ledger.batch() as db:
        db.executemany("INSERT OR IGNORE INTO devices (device_id, seen_unix_s, facts) VALUES (?, ?, ?)", facts)


def _mend_run(
    ledger: Ledger, store: Store, run_id: str, state: RunState | None, sent: Mapping[str, Sent], *, is_added: bool
) -> tuple[RunRepair, tuple[Damaged, ...]]:
    rows = stored_attempts(run_id, store)
    retried = state.retried if state else {}
    done = 0
    for job in ledger.jobs(run_id):
        latest = sent.get(job.job_id)
        after = mended(job, rows.get(job.job_id), latest.attempt if latest else 0, retried.get(job.job_id, 0))
        if after != job:
            done += after.state == "done"
            _write_job(ledger, after, latest)
    has_files = run_id in store.runs()
    lost = lost_rows(ledger, store, run_id) if has_files else None
    put_back = lost.unreadable if lost else ()
    ledger.reopen_jobs(put_back)
    if lost:
        _keep_numbers(ledger, lost.damaged)
    row = ledger.run(run_id)
    missing = len(lost.missing) if lost else row.done
    return (
        RunRepair(run_id, is_added, row.jobs, row.remaining, done, len(put_back), missing),
        lost.damaged if lost else (),
    )


def mended(job: JobRow, row: StoredAttempt | None, sent: int, retried: int) -> JobRow:
    """The job as its row, its sendings and requests to retry it show it to be. PURE

    ``sent``, ``retried``: the latest attempt that was sent, and the number from which it was to run again; 0 for none.
    """
    asked = max(job.attempt, retried)
    is_newer = row is not None and row.attempt > job.attempt
    if job.state == "done" and retried <= job.attempt and not is_newer:
        return job  # whether its row can be read, is another question
    if row is not None and row.attempt >= max(asked, 1):
        return replace(job, state="done", attempt=row.attempt, cause=row.cause, seconds=row.seconds)
    attempt = max(asked, sent, row.attempt if row else 0)
    if attempt == job.attempt:
        return job
    return replace(job, state="sent" if attempt == sent else "waiting", attempt=attempt, cause=None, seconds=None)


def _write_job(ledger: Ledger, job: JobRow, sent: Sent | None) -> None:
    with ledger.batch() as db:
        db.execute(
            "UPDATE jobs SET state = ?, attempt = ?, cause = ?, seconds = ?, failures = 0 WHERE job_id = ?",
            (job.state, job.attempt, job.cause, job.seconds, job.job_id),
        )
        if sent is not None:
            db.execute(
                # term 0: the log's line does not name it
                "INSERT OR IGNORE INTO attempts (job_id, attempt, device_id, term, sent_unix_s) VALUES (?, ?, ?, 0, ?)",
                (job.job_id, sent.attempt, sent.device_id, sent.unix_s),
            )
        if job.state == "done" and job.seconds is not None:
            db.execute(
                "UPDATE attempts SET ended_unix_s = sent_unix_s + ?, ending = ? WHERE job_id = ? AND attempt = ?"
                " AND ended_unix_s IS NULL",
                (job.seconds, job.cause or "measured", job.job_id, job.attempt),
            )


def _keep_numbers(ledger: Ledger, damaged: Sequence[Damaged]) -> None:
    """An attempt whose file is damaged has used its number."""
    with ledger.batch() as db:
        for key in filter(None, (key_in_name(each.path) for each in damaged)):
            db.execute(
                "UPDATE jobs SET state = 'waiting', attempt = ?, cause = NULL, seconds = NULL"
                " WHERE job_id = ? AND attempt < ?",
                (key[1], key[0], key[1]),
            )


def _sent_by_the_log(root: Path) -> dict[str, Sent]:
    found: dict[str, Sent] = {}
    for line in read_log(root, LogFilter()).lines:
        if (match := _SENT.search(line)) is None:
            continue
        with suppress(ValueError):
            each = Sent(int(match[3]), match[4], datetime.fromisoformat(match[1]).timestamp())
            if match[2] not in found or found[match[2]].attempt < each.attempt:
                found[match[2]] = each
    return found


def _without_record(store: Store, known: set[str]) -> list[str]:
    """Runs with results of our own, of which the ledger can be told nothing; imported ones were never in it."""
    found = []
    for run_id in store.runs():
        if run_id not in known:
            origins = store.read(run_id, columns=("origin",)).table.column("origin").unique().to_pylist()
            if "measured" in origins:
                found.append(run_id)
    return found


def _keep(path: Path, why: str) -> Path | None:
    """Under another name, with its journal: that of one ledger must never lie beside another."""
    base = f"{path.stem}-{why}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    number, name = 1, f"{base}.sqlite"
    while any(path.with_name(name + part).exists() for part in PARTS):
        number, name = number + 1, f"{base}-{number + 1}.sqlite"
    kept = None
    for part in PARTS:
        source = path.with_name(path.name + part)
        if source.exists():
            target = path.with_name(name + part)
            source.rename(target)
            kept = kept or target
    flush_folder(path.parent)
    return kept


def _remove(path: Path) -> None:
    for part in PARTS:
        path.with_name(path.name + part).unlink(missing_ok=True)
