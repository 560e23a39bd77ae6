from __future__ import annotations

import io
from pathlib import Path

import pytest

from orchestrator.cli.ledger_access import ledger_path
from orchestrator.dispatch.home import lock_home
from orchestrator.dispatch.ledger.backup import back_up
from orchestrator.dispatch.ledger.record import record_of, write_record
from tests.unit.cli.conftest import Orchestrate
from tests.unit.dispatch.submitted_run import RUN, SubmittedRun


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """One of three jobs is done, and there is a backup of before."""
    home = tmp_path / "home"
    (home / "runs" / RUN).mkdir(parents=True)
    run = SubmittedRun(home)
    write_record(home, record_of(run.ledger, RUN))
    back_up(home / "ledger.sqlite")
    run.coordinator(run.fleet()).run(until=lambda: run.left() == 2)
    run.ledger.close()
    return home


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_whole_ledger(orchestrate: Orchestrate, home: Path) -> None:
    ended = orchestrate("repair")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"nothing to repair: {home / 'ledger.sqlite'} is whole, and knows every row of 1 run\n"


def test_what_it_will_do_what_it_cannot_know_and_then_it_is_done(orchestrate: Orchestrate, home: Path) -> None:
    ledger_path(home).write_bytes(b"no pages of a database " * 300)
    assert "mend it with: orchestrate repair" in orchestrate("status").err
    ended = orchestrate("repair", "--yes")
    assert (ended.code, ended.err) == (0, "")
    for words in (
        "not a database",
        "made anew from the backup ledger-000001-",
        f"  {RUN}: 1 done by their rows, 2 remain",
        "what is not known any more:",
        "how often a job had failed",
        "repaired; what was there before is kept: ",
        "orchestrate resume RUN",
    ):
        assert words in ended.out
    assert "2 of 3 jobs left" in orchestrate("show", RUN).out
    assert orchestrate("repair").out.startswith("nothing to repair")
    assert [path.read_bytes()[:8] for path in home.glob("ledger-damaged-*.sqlite")] == [b"no pages"]
    assert list(home.glob(".*.tmp*")) == []


def test_a_ledger_that_is_gone_is_no_new_home(orchestrate: Orchestrate, home: Path) -> None:
    ledger_path(home).unlink()
    ended = orchestrate("status")
    assert (ended.code, ended.out) == (1, "")
    assert "the ledger is gone; your rows are safe in runs/; mend it with: orchestrate repair" in ended.err
    assert not ledger_path(home).exists()
    assert orchestrate("repair", "--yes").code == 0
    assert orchestrate("status").code == 0


def test_the_log_is_read_without_a_ledger(orchestrate: Orchestrate, home: Path) -> None:
    """It may say what became of it."""
    line = f"2026-11-30T19:20:31.123Z INFO run={RUN} RunAdded jobs=3"
    (home / "coordinator.log").write_text(f"{line}\n")
    ledger_path(home).unlink()
    ended = orchestrate("logs", RUN)
    assert (ended.code, ended.out) == (0, f"coordinator: {line}\n")


@pytest.mark.parametrize(("answer", "repaired"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_it_asks(
    orchestrate: Orchestrate, home: Path, monkeypatch: pytest.MonkeyPatch, answer: str, repaired: bool
) -> None:
    ledger_path(home).unlink()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    ended = orchestrate("repair")
    assert ended.code == 0
    assert ("nothing was changed" in ended.out) is not repaired
    assert ledger_path(home).exists() is repaired


def test_where_nobody_can_be_asked(orchestrate: Orchestrate, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger_path(home).unlink()
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    ended = orchestrate("repair")
    assert ended.code == 2
    assert "nothing was changed" in ended.err and "--yes" in ended.err
    assert not ledger_path(home).exists()


def test_it_refuses_while_a_coordinator_runs(
    orchestrate: Orchestrate, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.dispatch.home.LOCK_S", 0.0)
    ledger_path(home).unlink()
    with lock_home(home):
        ended = orchestrate("repair", "--yes")
    assert ended.code == 1
    assert "a coordinator works on" in ended.err
    assert not ledger_path(home).exists()


def test_where_nothing_ever_was(orchestrate: Orchestrate, tmp_path: Path) -> None:
    assert orchestrate("repair").out.startswith("nothing to repair")
    (tmp_path / "home").mkdir()
    assert "no ledger is in" in orchestrate("repair").out
