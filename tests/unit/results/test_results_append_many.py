"""Attempts that come together are one file and one flush; whatever is kept twice is read once."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.errors import OrchestrateError
from orchestrator.results import schema
from orchestrator.results.durable import StoreError, StoreFull
from orchestrator.results.rows import Kept, rows_of, rows_of_many
from orchestrator.results.store import Store
from tests.unit.results.made_attempts import DEVICE, FAILED, MEASURED, REFUSED, job, report
from tests.unit.results.test_results_store import failing, files_under

TABLES = tuple(schema.TABLES)


def kept(job_id: str, attempt: int = 1, run: str = "run-1", log: str = "") -> Kept:
    """Each job's attempts have outcomes and times of their own."""
    number = int(job_id.removeprefix("j"))
    asked = job(job_id, attempt=attempt, run_id=run)
    outcome = (MEASURED, FAILED, REFUSED)[number % 3]
    return Kept(asked, report(asked, outcome, started_unix_s=1_700_000_000.0 + number, log=log), DEVICE)


def many(count: int) -> list[Kept]:
    return [kept(f"j{number}") for number in range(count)]


def one_by_one(root: Path, attempts: Sequence[Kept]) -> Store:
    store = Store(root)
    for each in attempts:
        store.append(each.job, each.report, each.device)
    return store


def trials_of(root: Path, run: str = "run-1") -> list[str]:
    return files_under(Store(root).run_folder(run) / "trials")


def read(store: Store, table: str, run: str = "run-1") -> pa.Table:
    """A table in an order that does not depend on the attempts' files; that of ``trials`` is promised."""
    found = store.load(run, table)
    keys = [name for name in ("job_id", "attempt", "trial", "event", "at_s") if name in found.schema.names]
    return found if table in ("trials", "devices") else found.sort_by([(name, "ascending") for name in keys])


def test_several_are_one_file_and_read_as_those_that_came_one_by_one(tmp_path: Path) -> None:
    attempts = many(7)
    store = Store(tmp_path / "many")
    store.append_many(attempts)
    (name,) = trials_of(tmp_path / "many")
    assert name.startswith("compact-")
    single = one_by_one(tmp_path / "single", attempts)
    for reader in (store, Store(tmp_path / "many")):
        assert reader.attempts("run-1") == {(f"j{number}", 1) for number in range(7)}
        assert reader.has("run-1", "j3", 1) and not reader.has("run-1", "j3", 2)
        for table in TABLES:
            assert read(reader, table).equals(read(single, table)), table


def test_rows_of_several_are_those_of_each(tmp_path: Path) -> None:
    attempts = many(6)
    each = pa.concat_tables([rows_of(one.job, one.report, one.device, "1") for one in attempts])
    assert rows_of_many(attempts, "1").equals(each.combine_chunks())
    assert rows_of_many([]).num_rows == 0


def test_one_flush_for_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.append_many(many(2))  # the folders and the device are there now
    flushed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", flushed.append)
        store.append_many([kept(f"j{number}") for number in range(10, 60)])
    assert len(flushed) == 2  # the file, and the folder that it stands in


def test_none_and_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append_many([])
    assert store.runs() == ()
    store.append_many([kept("j1")])
    assert trials_of(tmp_path) == ["j1-1.parquet"]


def test_each_run_has_its_own_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append_many([kept("j1", run="a"), kept("j2", run="b"), kept("j3", run="a"), kept("j4", run="c")])
    assert {run: store.attempts(run) for run in store.runs()} == {
        "a": {("j1", 1), ("j3", 1)},
        "b": {("j2", 1)},
        "c": {("j4", 1)},
    }
    assert [len(trials_of(tmp_path, run)) for run in ("a", "b", "c")] == [1, 1, 1]


def test_the_same_again_in_any_order_is_the_same_file(tmp_path: Path) -> None:
    attempts = [kept("j1"), kept("j2"), kept("j1", attempt=2)]
    Store(tmp_path).append_many(attempts)
    before, names = Store(tmp_path).load("run-1"), trials_of(tmp_path)
    for order in permutations(attempts):
        Store(tmp_path).append_many(order)
        assert trials_of(tmp_path) == names
        assert Store(tmp_path).load("run-1").equals(before)


def test_one_attempt_twice_in_one_call_is_there_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append_many([kept("j0"), kept("j1"), kept("j0")])
    assert store.load("run-1").equals(one_by_one(tmp_path / "single", [kept("j0"), kept("j1")]).load("run-1"))
    store.append_many([kept("j3", run="twice"), kept("j3", run="twice")])
    assert store.load("twice").num_rows == 2


SPLITS: list[list[list[str]]] = [
    [["j0"], ["j0", "j1"]],
    [["j0", "j1"], ["j0"], ["j1"]],
    [["j0", "j1"], ["j1", "j2"]],
    [["j0", "j1"], ["j1", "j2"], ["j0", "j2"], ["j0", "j1", "j2"], ["j2"]],
    [["j0", "j1", "j2"], ["j3"], ["j0", "j3"]],
]


@pytest.mark.parametrize("calls", SPLITS, ids=[" ".join("+".join(call) for call in calls) for calls in SPLITS])
@pytest.mark.parametrize("compacted", [False, True])
def test_what_was_kept_in_several_ways_is_read_once(tmp_path: Path, calls: list[list[str]], compacted: bool) -> None:
    """A crash between the results and the ledger has attempts kept again, in other company."""
    for call in calls:
        Store(tmp_path).append_many([kept(each) for each in call])
    names = sorted({each for call in calls for each in call})
    single = one_by_one(tmp_path / "single", [kept(each) for each in names])
    store = Store(tmp_path)
    if compacted:
        merged = store.compact("run-1")
        assert merged is not None and trials_of(tmp_path) == [merged.name]
    for table in TABLES:
        assert read(store, table).equals(read(single, table)), table
    assert store.attempts("run-1") == {(each, 1) for each in names}


def test_a_reader_that_was_there_before_sees_what_comes_after(tmp_path: Path) -> None:
    store, reader = Store(tmp_path), Store(tmp_path)
    store.append_many([kept("j0"), kept("j1")])
    assert reader.attempts("run-1") == {("j0", 1), ("j1", 1)}
    store.append_many([kept("j1"), kept("j2")])
    assert reader.attempts("run-1") == {("j0", 1), ("j1", 1), ("j2", 1)}
    assert reader.load("run-1").num_rows == one_by_one(tmp_path / "s", many(3)).load("run-1").num_rows


def test_the_logs_lie_beside_their_rows(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append_many([kept("j0", log="zero\n"), kept("j1", log="one\n"), kept("j2", log="refused"), kept("j3")])
    paths = {row["job_id"]: row["log_path"] for row in store.load("run-1").to_pylist()}
    assert paths == {"j0": "logs/j0-1.log", "j1": "logs/j1-1.log", "j2": None, "j3": None}
    assert (store.run_folder("run-1") / "logs/j1-1.log").read_text() == "one\n"


def test_a_log_alone(tmp_path: Path) -> None:
    """Of an attempt that is tried again, and will be no row."""
    asked = job("j1", attempt=2)
    store = Store(tmp_path)
    path = store.keep_log(report(asked, FAILED, log="killed\n"))
    assert path == "logs/j1-2.log"
    assert (store.run_folder("run-1") / path).read_text() == "killed\n"
    assert store.attempts("run-1") == set()


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, StoreFull), (errno.EIO, StoreError)])
def test_a_disk_that_fails_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[StoreError]
) -> None:
    store = Store(tmp_path)
    store.append_many(many(3))
    before = files_under(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        with pytest.raises(error) as caught:
            store.append_many([kept("j3"), kept("j4")])
    assert type(caught.value) is error
    assert files_under(tmp_path) == before
    assert store.attempts("run-1") == {("j0", 1), ("j1", 1), ("j2", 1)}
    store.append_many([kept("j3"), kept("j4")])
    assert len(store.attempts("run-1")) == 5


def test_a_disk_that_fills_up_between_two_runs_keeps_the_first_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    attempts = [kept(f"j{number}", run=run) for run in ("a", "b") for number in range(3)]
    real = os.replace

    def only_a(source: str, target: str) -> None:
        if "/runs/b/" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", only_a)
        with pytest.raises(StoreFull):
            store.append_many(attempts)
    assert len(store.attempts("a")) == 3 and store.attempts("b") == set()
    store.append_many(attempts)  # once there is room: the same call again
    assert (len(store.attempts("a")), len(store.attempts("b"))) == (3, 3)
    assert len(trials_of(tmp_path, "a")) == 1


@pytest.mark.parametrize("name", ["../../etc", "", "compact-1"])
def test_a_name_that_leads_out_of_the_store_keeps_nothing_of_the_run(tmp_path: Path, name: str) -> None:
    bad = replace(kept("j1"), job=job(name), report=report(job(name)))
    with pytest.raises(OrchestrateError, match="cannot name a file"):
        Store(tmp_path).append_many([kept("j0"), bad])
    assert Store(tmp_path).runs() == ()
