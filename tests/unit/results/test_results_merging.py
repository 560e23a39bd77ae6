"""Files are merged while a run goes on: at no step is a row lost or there twice, whoever reads meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.results import attempt_files, merging
from orchestrator.results.attempt_files import merged_name, settled
from orchestrator.results.durable import StoreError, StoreFull
from orchestrator.results.merging import FAN, LARGE, LEFT_MOST, Stopped, merge_files, parts_to_merge
from orchestrator.results.store import Store
from tests.fakes.disks import full_disk
from tests.unit.results.made_attempts import DEVICE
from tests.unit.results.test_results_append_many import kept, many, read, trials_of
from tests.unit.results.test_results_store import failing


def filled(root: Path, *, single: int = 5, together: int = 3) -> Store:
    """``single`` files of one attempt, and a merged one of ``together``."""
    store = Store(root)
    for each in many(single):
        store.append(each.job, each.report, each.device)
    store.append_many([kept(f"j{number}") for number in range(single, single + together)])
    return store


def parts_of(store: Store) -> list[Path]:
    return attempt_files.attempt_files(store.run_folder("run-1") / "trials")


def assert_same(folder: Path, was: dict[str, pa.Table]) -> None:
    """As another process reads it."""
    for table, before in was.items():
        assert read(Store(folder), table).equals(before), table


def rot_a_page(path: Path, column: str) -> None:
    """One byte of the column is another one; all else is whole."""
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        (place,) = (each for each in map(group.column, range(group.num_columns)) if each.path_in_schema == column)
        last = (place.dictionary_page_offset or place.data_page_offset) + place.total_compressed_size - 1
    data = bytearray(path.read_bytes())
    data[last] ^= 0xFF
    path.write_bytes(data)


@contextmanager
def snapshots(folder: Path, into: Path) -> Iterator[list[Path]]:
    """Copies of ``folder`` as it lies on the disk before and after each step of what runs inside the block: what a
    process that is killed there, or a machine that loses its power, leaves behind."""
    taken: list[Path] = []

    def photograph(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def stepped(*args: object, **more: object) -> object:
            take()
            result = real(*args, **more)
            take()
            return result

        patch.setattr(owner, name, stepped)

    def take() -> None:
        taken.append(Path(shutil.copytree(folder, into / str(len(taken)))))

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (os, "fsync"),
            (os, "replace"),
            (Path, "unlink"),
            (pq.ParquetWriter, "write_table"),
            (pq.ParquetWriter, "close"),
            (merging, "_read_back"),
            (merging, "_attempts_in"),
        ):
            photograph(owner, name)
        yield taken


def test_at_each_step_every_row_is_there_once(tmp_path: Path) -> None:
    store = filled(tmp_path / "home", single=3, together=2)
    was = {table: read(store, table) for table in ("trials", "tokens")}
    with snapshots(tmp_path / "home", tmp_path / "steps") as taken:
        assert store.compact("run-1") is not None
    assert len(taken) > 20
    states = set()
    for folder in taken:
        assert_same(folder, was)
        states.add((len(trials_of(folder)), any(".tmp" in name for name in trials_of(folder))))
    # parts alone; with the merged one aside, in part and whole; with both; fewer and fewer parts; the merged one
    assert {(4, False), (5, True), (5, False), (3, False), (1, False)} <= states
    for folder in taken[:: len(taken) // 4]:  # and what was broken off can be done again
        again = Store(folder)
        again.append_many([kept("j90"), kept("j91")])
        again.compact("run-1")
        assert len(trials_of(folder)) == 1 or ".tmp" in str(trials_of(folder))
        assert len(again.attempts("run-1")) == 7


@pytest.mark.parametrize("is_damaged", [False, True])
def test_parts_that_a_crash_left_go_with_the_next_look_unless_theirs_is_the_last_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    store = filled(tmp_path)
    was = read(store, "trials")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing(errno.EIO))
        with pytest.raises(StoreError):
            store.compact("run-1")
    assert len(trials_of(tmp_path)) == 7
    (merged,) = (path for path in parts_of(store) if len(attempt_files.whole_keys(path)) == 8)
    if is_damaged:
        rot_a_page(merged, "output_sha256")
        assert len(attempt_files.read_keys(merged)) == 8, "what it holds can be read, but not all of it"
    again = Store(tmp_path)
    again.merge_small("run-1")
    assert len(trials_of(tmp_path)) == (7 if is_damaged else 1)
    assert read(again, "trials").equals(was)


@pytest.mark.parametrize("number", [28, 5])
def test_a_disk_that_fails_while_it_merges_changes_nothing(tmp_path: Path, number: int) -> None:
    store = filled(tmp_path)
    names, was = trials_of(tmp_path), read(store, "trials")
    with full_disk(), pytest.raises(StoreFull):
        store.compact("run-1")
    assert trials_of(tmp_path) == names
    assert read(store, "trials").equals(was)


def test_what_is_read_back_otherwise_than_it_was_written_takes_no_part_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path)
    names = trials_of(tmp_path)
    real = os.fsync

    def rots(handle: int) -> None:
        real(handle)
        for path in (tmp_path / "runs/run-1/trials").glob(".compact-*.tmp"):
            rot_a_page(path, "output_sha256")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", rots)
        with pytest.raises(StoreError, match="read back"):
            store.compact("run-1")
    assert trials_of(tmp_path) == names
    assert len(store.attempts("run-1")) == 8 and store.check("run-1").damaged == ()


def test_rows_that_a_merged_file_lacks_take_no_part_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    names = trials_of(tmp_path)
    real = pq.ParquetWriter.write_table

    def forgets(self: pq.ParquetWriter, table: pa.Table) -> None:
        real(self, table.slice(1))

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", forgets)
        with pytest.raises(StoreError, match=r"read back 1. rows of \d attempts, written were 14 rows of 8"):
            store.compact("run-1")
    assert trials_of(tmp_path) == names


def test_merging_that_is_stopped_changes_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path)
    names, turns = trials_of(tmp_path), iter(range(100))
    with pytest.raises(Stopped):
        merge_files(parts_of(store), is_stopped=lambda: next(turns) >= 3)
    assert trials_of(tmp_path) == names


def test_a_part_that_cannot_be_read_stays_and_its_copies_are_taken(tmp_path: Path) -> None:
    store = filled(tmp_path)
    broken = store.run_folder("run-1") / "trials" / merged_name([("j0", 1), ("j1", 1)])
    store.append_many([kept("j0"), kept("j1")])
    rot_a_page(broken, "output_sha256")
    assert store.compact("run-1") is not None
    assert len(trials_of(tmp_path)) == 2 and broken.exists()
    assert store.check("run-1").keys == {(f"j{number}", 1) for number in range(8)}


def sizes(**counts: int) -> dict[Path, int]:
    return {Path(name): count for name, count in counts.items()}


def many_files(count: int, attempts: int, prefix: str = "f") -> dict[Path, int]:
    return sizes(**{f"{prefix}{number}": attempts for number in range(count)})


POLICY: dict[str, tuple[dict[Path, int], int, int]] = {
    # files; how many of them are merged while the run goes on; when it has ended
    "none": ({}, 0, 0),
    "a few": (many_files(LEFT_MOST, 1), 0, 0),
    "one more than a few": (many_files(LEFT_MOST + 1, 1), 0, LEFT_MOST + 1),
    "nearly enough": (many_files(FAN - 1, 1), 0, FAN - 1),
    "enough": (many_files(FAN, 1), FAN, FAN),
    "those of an older version": (many_files(2734, 1), 2734, 2734),
    "small ones beside merged ones": (many_files(FAN, 1) | many_files(10, FAN, "m"), FAN, FAN + 10),
    "merged ones are enough": (many_files(3, 1) | many_files(FAN, FAN, "m"), FAN, FAN + 3),
    "large ones are left": (many_files(200, LARGE), 0, 0),
}


@pytest.mark.parametrize("case", POLICY)
def test_which_files_are_merged(case: str) -> None:
    files, going_on, ended = POLICY[case]
    assert len(parts_to_merge(files)) == going_on
    assert len(parts_to_merge(files, has_ended=True)) == ended


def test_a_long_run_has_few_files_at_any_time_and_each_row_is_written_again_twice_at_most() -> None:
    files: dict[Path, int] = {}
    most = rewritten = 0
    for number in range(20_000):
        files[Path(str(number))] = 1
        while parts := parts_to_merge(files):
            attempts = sum(files.pop(part) for part in parts)
            rewritten += attempts
            files[Path(f"m{number}-{attempts}")] = attempts
        most = max(most, len(files))
    assert most <= 2 * FAN + 4
    assert rewritten <= 2 * 20_000


def test_a_reader_whose_files_are_merged_away_reads_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has listed the folder; before it gets to the file of a place, all of them are merged."""
    was = read(filled(tmp_path / "home"), "trials")
    real = attempt_files.read_parquet
    for place in range(6):
        home = Path(shutil.copytree(tmp_path / "home", tmp_path / str(place)))
        at = (number == place for number in range(1000))

        def merged_before(
            path: Path,
            *args: object,
            home: Path = home,
            at: Iterator[bool] = at,
            **more: object,
        ) -> pa.Table:
            if next(at):
                with pytest.MonkeyPatch.context() as others:
                    others.setattr("orchestrator.results.reading.read_parquet", real)
                    Store(home).compact("run-1")
            return real(path, *args, **more)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr("orchestrator.results.reading.read_parquet", merged_before)
            found = Store(home).read("run-1")
        assert found.damaged == () and found.table.equals(was), place


def test_a_reader_that_is_overtaken_again_and_again_comes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each file that it reads, something is added and everything merged: for a while it only finds names."""
    store = filled(tmp_path)
    real, numbers = attempt_files.read_parquet, iter(range(100, 110))

    def overtaken(path: Path, *args: object, **more: object) -> pa.Table:
        for number in numbers:
            with pytest.MonkeyPatch.context() as others:
                others.setattr("orchestrator.results.reading.read_parquet", real)
                writer = Store(tmp_path)
                writer.append_many([kept(f"j{number}")])
                writer.compact("run-1")
            break
        return real(path, *args, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.results.reading.read_parquet", overtaken)
        found = store.read("run-1")
    assert found.damaged == ()
    assert found.table.equals(store.load("run-1"))
    assert len(set(found.table.column("job_id").to_pylist())) == 8 + 10


def test_a_file_that_is_not_there_for_good_is_named(tmp_path: Path) -> None:
    store = filled(tmp_path)
    folder = store.run_folder("run-1") / "trials"
    (folder / "j77-1.parquet").symlink_to(folder / "nowhere")
    (damaged,) = store.read("run-1").damaged
    assert (damaged.path.name, damaged.why) == ("j77-1.parquet", "it is no longer there")


def listings(*each: str) -> Callable[[], frozenset[str]]:
    remaining = iter(each)
    return lambda: frozenset(next(remaining).split())


def test_a_listing_that_missed_a_merging_is_taken_again() -> None:
    assert settled(listings("a b", "a b")) == {"a", "b"}
    assert settled(listings("a b", "a b c")) == {"a", "b", "c"}, "what is added is no reason to list again"
    # the second listing came by the merged file's place before it was there, and by the parts' when they were gone
    assert settled(listings("a b c", "c", "c m")) == {"c", "m"}
    assert settled(listings("a b", "b m", "m n", "n o", "n o p")) == {"n", "o", "p"}


def test_files_that_are_kept_have_checksums_and_those_of_before_are_read_without(tmp_path: Path) -> None:
    store = filled(tmp_path)
    path = tmp_path / "runs/run-1/trials/j0-1.parquet"
    pq.write_table(pq.read_table(path), path)
    assert store.check("run-1").damaged == ()
    assert store.load("run-1").num_rows == 14
    assert DEVICE.name in store.load("run-1").column("device").to_pylist()
