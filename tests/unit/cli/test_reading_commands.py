"""show, export, compare, results: with rows that cannot be read, without a ledger, with retried attempts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import orchestrator
from agents.contract.report import Cause
from orchestrator.dispatch.lost_rows import put_back_unreadable
from orchestrator.results.rows import Kept
from tests.fakes.reports import report_of
from tests.unit.cli.conftest import Ended, Orchestrate
from tests.unit.dispatch.submitted_run import RUN, A, SubmittedRun
from tests.unit.dispatch.test_lost_rows import file_of, keep
from tests.unit.results.made_attempts import FAILED, MEASURED


@pytest.fixture
def run(tmp_path: Path) -> SubmittedRun:
    """All three jobs are done; the second at its second attempt."""
    (tmp_path / "home").mkdir()
    run = SubmittedRun(tmp_path / "home")
    keep(run, 0)
    job = run.run.job(run.ids[1], 1)
    run.store.append_many([Kept(job, report_of(job, FAILED, A), A)])
    run.ledger.mark_sent(run.ids[1], 1, A.device_id)
    run.ledger.mark_done(run.ids[1], 1, Cause.ENGINE_CRASHED, 1.0)
    run.ledger.requeue(RUN, [Cause.ENGINE_CRASHED])
    keep(run, 1, attempt=3)
    keep(run, 2)
    run.ledger.close()
    return run


Command = tuple[str, ...]
COMMANDS: dict[str, Command] = {
    "show": ("show", RUN),
    "show json": ("show", RUN, "--json"),
    "show latest": ("show",),
    "export": ("export", RUN, "-"),
    "export file": ("export", RUN, "FILE"),
    "compare": ("compare", RUN),
}


def output(orchestrate: Orchestrate, command: Command, folder: Path) -> tuple[Ended, str]:
    """What a command printed, or wrote into its file."""
    path = folder / "exported.jsonl"
    ended = orchestrate(*(str(path) if word == "FILE" else word for word in command))
    return ended, path.read_text() if "FILE" in command else ended.out


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_all_rows_are_there(orchestrate: Orchestrate, run: SubmittedRun, tmp_path: Path, command: Command) -> None:
    ended, text = output(orchestrate, command, tmp_path)
    assert (ended.code, ended.err) == (0, "") and text


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_rows_that_cannot_be_read_are_counted_and_named_and_the_others_are_there(
    orchestrate: Orchestrate, run: SubmittedRun, tmp_path: Path, command: Command
) -> None:
    file_of(run, 0).write_bytes(b"")
    file_of(run, 1, attempt=3).write_bytes(file_of(run, 1, attempt=3).read_bytes()[:-20])
    ended, text = output(orchestrate, command, tmp_path)
    assert ended.code == 1
    assert "2 rows cannot be read" in ended.err
    assert all(file_of(run, *which).name in ended.err for which in ((0, 1), (1, 3)))
    assert f"orchestrate resume {RUN}" in ended.err
    if "json" in str(command) or "export" in command:
        assert run.ids[2] in text and run.ids[0] not in text
    else:
        assert "ctx 4K" in text or "4K" in text


def test_a_damaged_merged_file_is_counted_by_what_the_ledger_has_as_done(
    orchestrate: Orchestrate, run: SubmittedRun
) -> None:
    run.store.compact(RUN)
    (merged,) = (run.folder / "runs" / RUN / "trials").iterdir()
    merged.write_bytes(b"PAR1")
    ended = orchestrate("show", RUN, "--json")
    assert (ended.code, ended.out) == (1, "") and "3 rows cannot be read" in ended.err
    (run.folder / "ledger.sqlite").unlink()
    ended = orchestrate("show", RUN, "--json")
    assert ended.code == 1 and "at least 1 row cannot be read" in ended.err


def test_a_file_that_is_gone_is_missed(orchestrate: Orchestrate, run: SubmittedRun) -> None:
    file_of(run, 2).unlink()
    ended = orchestrate("show", RUN)
    assert ended.code == 1 and "1 row cannot be read: no file holds it" in ended.err


def test_a_damaged_file_whose_rows_are_elsewhere_is_a_warning(orchestrate: Orchestrate, run: SubmittedRun) -> None:
    keep_again = run.run.job(run.ids[0], 1), run.run.job(run.ids[2], 1)
    run.store.append_many([Kept(job, report_of(job, MEASURED, A), A) for job in keep_again])
    file_of(run, 0).write_bytes(b"")
    ended = orchestrate("show", RUN)
    assert ended.code == 0 and "warning" in ended.err and file_of(run, 0).name in ended.err


def test_after_it_was_put_back_it_is_no_longer_missed(orchestrate: Orchestrate, run: SubmittedRun) -> None:
    from orchestrator.dispatch.ledger.ledger import Ledger
    from orchestrator.dispatch.lost_rows import lost_rows

    file_of(run, 0).write_bytes(b"")
    ledger = Ledger(run.folder / "ledger.sqlite")
    put_back_unreadable(ledger, run.store, RUN, lost_rows(ledger, run.store, RUN))
    ledger.close()
    ended = orchestrate("show", RUN)
    assert (ended.code, ended.err) == (0, "") and "1 of 3 jobs left" in ended.out


def replaced(path: Path) -> None:
    SubmittedRun(path.parent / "other").ledger.close()
    shutil.copy(path.parent / "other" / "ledger.sqlite", path)
    import sqlite3

    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM runs")


LEDGERS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "garbage": lambda path: path.write_bytes(b"no database at all " * 500),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "zero bytes": lambda path: path.write_bytes(b""),
    "of other runs": replaced,
}


@pytest.mark.parametrize("ledger", LEDGERS)
@pytest.mark.parametrize("command", [*COMMANDS.values(), ("results",)], ids=[*COMMANDS, "results"])
def test_runs_are_read_without_a_ledger(
    orchestrate: Orchestrate, run: SubmittedRun, tmp_path: Path, command: Command, ledger: str
) -> None:
    _, before = output(orchestrate, command, tmp_path)
    for part in ("-wal", "-shm"):
        (run.folder / f"ledger.sqlite{part}").unlink(missing_ok=True)
    LEDGERS[ledger](run.folder / "ledger.sqlite")
    content = (run.folder / "ledger.sqlite").read_bytes() if ledger != "missing" else None
    ended, text = output(orchestrate, command, tmp_path)
    assert (ended.code, text) == (0, before), ended.err
    # an export of a home without any trace of a ledger is as it always was
    if "export" not in command or ledger not in ("missing", "zero bytes", "of other runs"):
        (line,) = ended.err.splitlines()
        assert line.startswith("warning: ") and "Unknown of run-1: how many jobs remain" in line
    if content is None:
        assert not (run.folder / "ledger.sqlite").exists(), "reading made none"


def test_show_says_what_was_superseded(orchestrate: Orchestrate, run: SubmittedRun, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in orchestrate("show", RUN, "--json").out.splitlines()]
    assert {(row["job_id"], row["attempt"]) for row in rows} == set(zip(run.ids, (1, 3, 1), strict=True))
    rows = [json.loads(line) for line in orchestrate("show", RUN, "--json", "--all-attempts").out.splitlines()]
    assert len({(row["job_id"], row["attempt"]) for row in rows}) == 4
    assert "1 earlier attempts of retried jobs left out" in orchestrate("show", RUN).out
    text = orchestrate("show", RUN, "--all-attempts").out
    assert f"earlier attempts of retried jobs:\n  {run.ids[1]} attempt 1: engine crashed" in text


def test_export_writes_the_current_attempts_or_all(orchestrate: Orchestrate, run: SubmittedRun, tmp_path: Path) -> None:
    path = tmp_path / "exported.parquet"
    for options, count in (((), 3), (("--all-attempts",), 4)):
        assert orchestrate("export", RUN, path, *options).code == 0
        table = orchestrator.load(path, all_attempts=True)
        assert len({(row["job_id"], row["attempt"]) for row in table.to_pylist()}) == count
    assert set(orchestrator.load(path).column("attempt").to_pylist()) == {1, 3}
    ended = orchestrate("export", RUN, path, "--all-attempts", "--format", "llama-bench")
    assert ended.code == 2 and "--all-attempts" in ended.err
