"""`retry` supersedes: of each job every reader has the current attempt, once; the others are there on request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import orchestrator
from orchestrator.results.export import EXPORT_FORMATS, export
from orchestrator.results.rows import Kept
from orchestrator.results.store import Store
from tests.unit.results.made_attempts import DEVICE, FAILED, MEASURED, REFUSED, job, report

TABLES = ("trials", "tokens", "readings")


def kept(job_id: str, attempt: int) -> Kept:
    asked = job(job_id, attempt=attempt)
    outcome = (FAILED, MEASURED, REFUSED)[(attempt - 1) % 3]
    return Kept(asked, report(asked, outcome, started_unix_s=1_700_000_000.0 + attempt), DEVICE)


def one_by_one(store: Store) -> None:
    for each in (kept("a", 1), kept("b", 1), kept("a", 2), kept("c", 1), kept("c", 2), kept("c", 3)):
        store.append(each.job, each.report, each.device)


def together(store: Store) -> None:
    store.append_many([kept("a", 1), kept("b", 1), kept("c", 1)])
    store.append_many([kept("a", 2), kept("c", 2)])
    store.append_many([kept("c", 3)])


def merged(store: Store) -> None:
    together(store)
    store.compact("run-1")


def of_an_older_version(store: Store) -> None:
    """Without columns that came later, and without checksums."""
    one_by_one(store)
    for path in (store.run_folder("run-1") / "trials").iterdir():
        old = pq.read_table(path).drop_columns(["attempt_duration_s", "wall_time_wrong", "power_profile"])
        pq.write_table(old, path)


FOLDERS = (one_by_one, together, merged, of_an_older_version)


def attempts_of(table: pa.Table) -> set[tuple[str, int]]:
    return {(row["job_id"], row["attempt"]) for row in table.select(["job_id", "attempt"]).to_pylist()}


CURRENT = {"trials": {("a", 2), ("b", 1), ("c", 3)}, "tokens": {("a", 2), ("b", 1)}}
CURRENT["readings"] = CURRENT["trials"]
ALL = {"trials": {("a", 1), ("a", 2), ("b", 1), ("c", 1), ("c", 2), ("c", 3)}}
ALL["tokens"] = ALL["trials"] - {("c", 3)}
ALL["readings"] = ALL["trials"]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("fill", FOLDERS)
def test_a_folder_of_results(tmp_path: Path, fill: Callable[[Store], None], table: str) -> None:
    """A refused third attempt streamed nothing: tokens of the second are not taken for its own."""
    fill(Store(tmp_path))
    folder = tmp_path / "runs" / "run-1"
    for found in (
        Store(tmp_path).load("run-1", table),
        Store(tmp_path).read("run-1", table).table,
        orchestrator.load(folder, table),
        orchestrator.load(tmp_path, table, run="run-1"),
    ):
        assert attempts_of(found) == CURRENT[table]
    for found in (
        Store(tmp_path).load("run-1", table, all_attempts=True),
        orchestrator.load(folder, table, all_attempts=True),
        orchestrator.load(tmp_path, table, run="run-1", all_attempts=True),
    ):
        assert attempts_of(found) == ALL[table]
    assert Store(tmp_path).attempts("run-1") == ALL["trials"], "nothing was removed"


def test_each_row_of_the_current_attempt_is_there_once(tmp_path: Path) -> None:
    together(Store(tmp_path))
    rows = Store(tmp_path).load("run-1").to_pylist()
    found = {job: [(row["trial"], row["status"]) for row in rows if row["job_id"] == job] for job in "abc"}
    assert found["a"] == [(0, "ok"), (1, "ok")]
    assert found["b"] == [(0, "ok"), (None, "failed")]
    assert found["c"] == [(None, "refused")]


@pytest.mark.parametrize("name", [each.name for each in EXPORT_FORMATS])
def test_a_file_with_all_attempts(tmp_path: Path, name: str) -> None:
    """As older versions exported it."""
    together(Store(tmp_path))
    path = export(Store(tmp_path).load("run-1", all_attempts=True), tmp_path / f"all.{name}")
    assert attempts_of(orchestrator.load(path)) == CURRENT["trials"]
    assert attempts_of(orchestrator.load(path, all_attempts=True)) == ALL["trials"]


def test_published_figures_are_all_there(tmp_path: Path) -> None:
    table = orchestrator.load("reference:aimax395-64g")
    assert table.num_rows > 10
    assert orchestrator.load(export(table, tmp_path / "published.parquet")).equals(table)
