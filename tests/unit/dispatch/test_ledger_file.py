from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.dispatch.ledger.file import LedgerBusy, LedgerDamaged, LedgerError, check_pages
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.ledger.watch import LedgerWatch

SAFE = r"your rows are safe in runs/; mend it with: orchestrate repair"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(Ledger(path, busy_s=0.05)) as made:
        made.add("run-1", "name", "{}", [("j1", "c1", "d1", 0)])
        yield made


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


class TestHeldByAnotherProgram:
    def test_a_write_says_so_and_the_next_one_works(self, path: Path, ledger: Ledger) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as backup:
            backup.execute("BEGIN EXCLUSIVE")
            with pytest.raises(LedgerBusy, match="database is locked: another program holds it"):
                ledger.mark_sent("j1", 1)
            assert [row.id for row in ledger.runs()] == ["run-1"], "who reads waits for nobody"
        ledger.mark_sent("j1", 1)

    def test_it_is_not_damaged(self, path: Path, ledger: Ledger) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as backup:
            backup.execute("BEGIN EXCLUSIVE")
            check_pages(path)
            LedgerWatch(path, ledger, lambda _: None).look()


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4096)


def journal_deleted(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def journal_index_replaced(path: Path) -> None:
    index = Path(f"{path}-shm")
    index.unlink()
    index.write_bytes(b"")


CHANGES = [deleted, replaced, emptied, cut_off, journal_deleted, journal_index_replaced]


class TestUnderAnOpenConnection:
    @pytest.mark.parametrize("change", CHANGES)
    def test_a_file_that_is_not_the_one_that_was_opened(
        self, path: Path, ledger: Ledger, change: Callable[[Path], None]
    ) -> None:
        ledger.check_file()
        change(path)
        with pytest.raises(LedgerDamaged, match=SAFE):
            ledger.check_file()
        with pytest.raises(LedgerDamaged, match=SAFE):
            ledger.mark_sent("j1", 1)
        with pytest.raises(LedgerDamaged, match=SAFE):
            LedgerWatch(path, ledger, lambda _: None).look()

    @pytest.mark.parametrize("change", [journal_deleted, journal_index_replaced])
    def test_what_a_lost_journal_held_is_not_lost(
        self, path: Path, ledger: Ledger, change: Callable[[Path], None]
    ) -> None:
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ledger.mark_sent("j1", 1)
        change(path)
        with pytest.raises(LedgerDamaged):
            ledger.check_file()
        ledger.close()
        with closing(Ledger(path)) as again:
            assert [(job.state, job.attempt) for job in again.jobs("run-1")] == [("sent", 1)]

    def test_pages_that_a_stranger_wrote(self, path: Path, ledger: Ledger) -> None:
        """Of the same length and the same inode; the open connection has the pages in memory."""
        watch = LedgerWatch(path, ledger, lambda _: None)
        watch.look()
        ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.write(os.urandom(path.stat().st_size))
        os.utime(path, ns=(1, 1))
        with pytest.raises(LedgerDamaged, match=rf"file is not a database; {SAFE}"):
            watch.look()

    def test_its_own_growth_and_checkpoints_are_none(self, path: Path, ledger: Ledger) -> None:
        watch = LedgerWatch(path, ledger, lambda _: None)
        for number in range(3):
            ledger.add(f"big-{number}", "name", "{}" * 50_000, [])
            ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            watch.look()

    def test_others_that_open_and_close_it_are_none(self, path: Path, ledger: Ledger) -> None:
        Ledger(path).close()
        ledger.check_file()

    def test_the_watch_reports_it_once_and_ends(
        self, path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orchestrator.dispatch.ledger.watch.EVERY_S", 0.01)
        found: list[LedgerDamaged] = []
        watch = LedgerWatch(path, ledger, found.append)
        path.unlink()
        watch.start()
        watch._thread.join(timeout=10.0)
        assert [type(each) for each in found] == [LedgerDamaged]
        watch.close()


class TestPages:
    def test_a_whole_ledger(self, path: Path, ledger: Ledger) -> None:
        check_pages(path)
        ledger.close()
        check_pages(path)

    @pytest.mark.parametrize(
        ("content", "words"), [(b"", "is empty"), (b"no pages of a database " * 400, "not a database")]
    )
    def test_what_is_none(self, tmp_path: Path, content: bytes, words: str) -> None:
        path = tmp_path / "ledger.sqlite"
        path.write_bytes(content)
        with pytest.raises(LedgerDamaged, match=rf"{words}.*{SAFE}"):
            check_pages(path)

    def test_a_page_in_the_middle(self, path: Path, ledger: Ledger) -> None:
        ledger.add("big", "name", "{}" * 50_000, [(f"k{n}", "c", "d", n) for n in range(2_000)])
        ledger.close()
        with path.open("r+b") as file:
            file.seek(4096 * 3)
            file.write(b"\xff" * 4096)
        with pytest.raises(LedgerDamaged, match=SAFE):
            check_pages(path)

    def test_a_laptop_that_slept_meanwhile_makes_none_of_a_whole_one(self, path: Path, ledger: Ledger) -> None:
        """The clock has jumped by hours: it was not examined to the end, and that is no damage."""
        ledger.add("big", "name", "{}", [(f"k{n}", "c", "d", n) for n in range(20_000)])
        hours = itertools.count(0.0, 3600.0)
        check_pages(path, monotonic=lambda: next(hours))


class TestForItsOwnerAlone:
    def test_a_new_ledger_with_its_journal(self, path: Path) -> None:
        before = os.umask(0)
        try:
            with closing(Ledger(path)) as ledger:
                ledger.add("run-1", "name", "{}", [])
                modes = {each.name: mode(each) for each in path.parent.iterdir()}
        finally:
            os.umask(before)
        assert modes == dict.fromkeys(["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"], 0o600)
        assert mode(path.parent) == 0o700

    def test_an_older_one_when_it_is_opened(self, path: Path, ledger: Ledger) -> None:
        parts = [path, Path(f"{path}-wal"), Path(f"{path}-shm")]
        for part in parts:
            part.chmod(0o644)
        Ledger(path).close()
        assert [mode(part) for part in parts] == [0o600] * 3


def test_other_errors_are_neither(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot open the ledger") as found:
        Ledger(tmp_path)
    assert type(found.value) is LedgerError
