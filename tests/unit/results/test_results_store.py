from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.results import schema
from orchestrator.results.attempt_files import DamagedFileWarning
from orchestrator.results.durable import StoreError, StoreFull, StoreNotWritable, durable_file
from orchestrator.results.rows import rows_of
from orchestrator.results.store import Store
from tests.fakes.disks import full_disk
from tests.unit.results.made_attempts import DEVICE, FAILED, REFUSED, job, report


def filled(root: Path, count: int = 3) -> Store:
    store = Store(root)
    for number in range(count):
        asked = job(f"j{number}")
        store.append(asked, report(asked, started_unix_s=1_700_000_000.0 + number), DEVICE)
    return store


def files_under(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_what_was_appended_is_there_for_another_process(tmp_path: Path) -> None:
    filled(tmp_path)
    store = Store(tmp_path)
    assert store.runs() == ("run-1",)
    assert store.attempts("run-1") == {("j0", 1), ("j1", 1), ("j2", 1)}
    assert store.has("run-1", "j1", 1) and not store.has("run-1", "j1", 2)
    trials = store.load("run-1")
    assert trials.schema.equals(schema.schema("trials"), check_metadata=True)
    assert trials.column("job_id").to_pylist() == ["j0", "j0", "j1", "j1", "j2", "j2"]
    assert store.load("run-1", "tokens").num_rows == 3 * 2 * 4
    assert store.load("run-1", "readings").num_rows == 3 * 2
    assert store.load("run-1", "devices").num_rows == 1


def test_an_attempt_and_its_repetition_are_one_file(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    before = files_under(tmp_path)
    store.append(job("j0"), report(job("j0")), DEVICE)
    assert files_under(tmp_path) == before
    assert before == ["runs/run-1/devices/f00d-device-1.parquet", "runs/run-1/trials/j0-1.parquet"]


def test_the_engines_log_lies_beside_its_row(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(job(), report(job(), FAILED, log="line one\nkilled\n"), None)
    (path,) = set(store.load("run-1").column("log_path").to_pylist())
    assert (store.run_folder("run-1") / str(path)).read_text("utf-8") == "line one\nkilled\n"


def test_only_some_columns_are_read_when_only_these_are_asked_for(tmp_path: Path) -> None:
    table = filled(tmp_path, 2).read("run-1", columns=["status"]).table
    assert table.column("status").to_pylist() == ["ok"] * 4
    assert table.column("model").null_count == 4


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EACCES, StoreNotWritable),
        (errno.EROFS, StoreNotWritable),
        (errno.EIO, StoreError),
    ],
)
def test_a_disk_that_fails_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[StoreError]
) -> None:
    store = filled(tmp_path, 1)
    before = files_under(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        with pytest.raises(error) as caught:
            store.append(job("j9"), report(job("j9")), DEVICE)
    assert type(caught.value) is error
    assert str(tmp_path) in str(caught.value)
    assert files_under(tmp_path) == before
    store.append(job("j9"), report(job("j9")), DEVICE)
    assert store.has("run-1", "j9", 1)


def test_a_full_disk_is_named_so(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(StoreFull, match="no space left"), durable_file(tmp_path / "x.parquet") as file:
        file.write(b"x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StoreError, match="runs"):
        Store(tmp_path).append(job(), report(job()), None)


def test_leftovers_of_a_crash_are_ignored_and_cleaned_those_of_a_living_writer_kept(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    folder = tmp_path / "runs" / "run-1" / "trials"
    dead = folder / ".j5-1.parquet.4194305.tmp"  # above the greatest process id of Linux
    alive = folder / f".j6-1.parquet.{os.getpid()}.tmp"
    dead.write_bytes(b"half")
    alive.write_bytes(b"half")
    assert Store(tmp_path).attempts("run-1") == {("j0", 1)}
    assert store.load("run-1").num_rows == 2
    Store(tmp_path).append(job("j1"), report(job("j1")), None)
    assert not dead.exists() and alive.exists()


def test_files_of_an_older_and_of_a_newer_version_are_read(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    folder = store.run_folder("run-1") / "trials"
    whole = rows_of(job("old"), report(job("old")), DEVICE)
    pq.write_table(whole.drop_columns(["kv_type_k", "prompt_tps", "readings"]), folder / "old-1.parquet")
    narrow = whole.schema.field("attempt").with_type(pa.int32())
    older = whole.set_column(whole.schema.get_field_index("attempt"), narrow, whole.column("attempt").cast(pa.int32()))
    pq.write_table(older, folder / "older-1.parquet")
    newer = whole.append_column("fan_rpm", pa.array([1.0] * whole.num_rows))
    pq.write_table(newer, folder / "new-1.parquet")
    read = store.read("run-1")
    assert read.damaged == ()
    assert read.table.num_rows == 8
    assert read.table.schema.equals(schema.schema("trials"))
    assert read.table.column("prompt_tps").null_count == 2
    assert store.load("run-1", "readings").num_rows == 2 * 3
    store.compact("run-1")
    kept = pq.read_schema(folder / "new-1.parquet").names
    assert "fan_rpm" in kept, "a file with a column that is not known here must not be merged away"


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "type"])
def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path: Path, damage: str) -> None:
    store = filled(tmp_path, 20)
    path = store.run_folder("run-1") / "trials" / "j7-1.parquet"
    whole = path.read_bytes()
    if damage == "type":
        pq.write_table(pa.table({"job_id": ["j7"], "attempt": ["first"]}), path)
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-100], "text": b"PAR1 no such thing"}[damage])
    with pytest.warns(DamagedFileWarning, match="j7-1.parquet") as caught:
        table = store.load("run-1")
    assert len(caught) == 1
    assert set(table.column("job_id").to_pylist()) == {f"j{n}" for n in range(20)} - {"j7"}
    merged = store.compact("run-1")
    assert merged is not None and path.exists()
    assert store.read("run-1").table.num_rows == 38


def test_compact_changes_what_lies_there_and_nothing_of_what_is_read(tmp_path: Path) -> None:
    store = filled(tmp_path, 12)
    before = {table: store.load("run-1", table) for table in schema.TABLES}
    merged = store.compact("run-1")
    assert files_under(store.run_folder("run-1") / "trials") == [merged.name if merged else ""]
    for reader in (store, Store(tmp_path)):
        for table, was in before.items():
            assert reader.load("run-1", table).equals(was), table
        assert len(reader.attempts("run-1")) == 12 and reader.has("run-1", "j3", 1)
    assert store.compact("run-1") is None
    store.append(job("late"), report(job("late")), DEVICE)
    store.compact("run-1")
    assert len(files_under(store.run_folder("run-1") / "trials")) == 1
    assert len(Store(tmp_path).attempts("run-1")) == 13


def test_a_crash_in_the_middle_of_compact_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, 5)
    before = store.load("run-1")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing(errno.EIO))
        with pytest.raises(StoreError):
            store.compact("run-1")
    folder = store.run_folder("run-1") / "trials"
    assert len(files_under(folder)) == 6
    again = Store(tmp_path)
    assert again.load("run-1").equals(before)
    again.append(job("late"), report(job("late"), started_unix_s=1_800_000_000.0), None)
    merged = again.compact("run-1")
    assert files_under(folder) == [merged.name if merged else ""]
    assert Store(tmp_path).load("run-1").slice(0, before.num_rows).equals(before)


def test_a_damaged_merged_file_does_not_take_the_single_ones_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, 5)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing(errno.EIO))
        with pytest.raises(StoreError):
            store.compact("run-1")
    (merged,) = (store.run_folder("run-1") / "trials").glob("compact-*")
    merged.write_bytes(merged.read_bytes()[:-50])
    again = Store(tmp_path)
    assert again.read("run-1").table.num_rows == 10
    with pytest.raises(StoreError, match="merged file"):
        again.attempts("run-1")
    assert again.has("run-1", "nobody", 1) is False
    again.compact("run-1")
    assert again.read("run-1").table.num_rows == 10


def test_a_second_device_of_the_same_kind_is_a_second_row(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    twin = replace(DEVICE, device_id="device-2", name="twin")
    store.append(job("j1", device_id="device-2"), report(job("j1")), twin)
    assert store.load("run-1", "devices").column("device").to_pylist() == ["laptop", "twin"]


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".hidden", "x" * 200, "compact-1"])
def test_a_name_cannot_lead_out_of_the_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(OrchestrateError, match="cannot name a file"):
        Store(tmp_path).append(job(name), report(job(name), REFUSED), None)


def test_an_unknown_run_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run 'run-2' .*There are: run-1"):
        filled(tmp_path, 1).load("run-2")
    with pytest.raises(UsageError, match="There are: none"):
        Store(tmp_path / "nothing").load("run-2")
