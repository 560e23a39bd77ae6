"""What a person reads when something is wrong: one message, an exit code, and never a traceback."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.ledger_access import find_run, ledger_path
from orchestrator.cluster.environment import Noted, note
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.ledger.schema import MIGRATIONS
from orchestrator.errors import NoCluster, OrchestrateError, UsageError
from tests.unit.cli.conftest import Orchestrate

GOOD = "axes: {model: tiny:llama, workload: pp8}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "m.yaml"
    path.write_text(text)
    return path


def runs(folder: Path, *names: str) -> None:
    ledger = Ledger(ledger_path(folder / "home"))
    for name in names:
        ledger.add(name, name, "{}", [])
    ledger.close()


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_a_bad_matrix(orchestrate: Orchestrate, tmp_path: Path, command: str) -> None:
    path = write(tmp_path, "axes:\n  model: tiny:llama\n  workload: pp8\n  contxt: 4K\nmeasure: {repeats: none}\n")
    ended = orchestrate(command, path)
    assert (ended.code, ended.out) == (2, "")
    first, second = ended.err.splitlines()
    assert first.startswith(f'error: {path}:4: axes.contxt: unknown key "contxt"; did you mean "context"? Allowed: ')
    assert second.startswith(f"{path}:5: measure.repeats: ")


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_no_such_file(orchestrate: Orchestrate, tmp_path: Path, command: str) -> None:
    ended = orchestrate(command, tmp_path / "nothing.yaml")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert "nothing.yaml" in ended.err
    assert len(ended.err.splitlines()) == 1


MANY = """
axes: {model: tiny:llama, workload: pp8, context: {from: 1, to: 1001, step: 1}}
measure: {repeats: 100}
"""


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_too_many_jobs_ask_for_yes(orchestrate: Orchestrate, tmp_path: Path, command: str) -> None:
    ended = orchestrate(command, write(tmp_path, MANY))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: m.yaml: 1,001 cells x 100 repeats x ")
    assert ended.err.endswith(" = 100,100 jobs; more than 100,000 need --yes\n")


def test_as_many_as_are_wanted_with_yes(orchestrate: Orchestrate, tmp_path: Path) -> None:
    ended = orchestrate("plan", "--yes", write(tmp_path, MANY))
    assert ended.code == 0
    assert "1,001 cells x 100 repeats = 100,100 jobs" in ended.out


NAMES = [
    (["quick-20260101-120000"], "quik-20260101-120000", "did you mean 'quick-20260101-120000'?"),
    (["quick-1", "quick-2"], "quick", "could be quick-2, quick-1"),
]
NO_RUNS: list[tuple[list[str], str, str]] = [
    ([], "latest", "there is no run yet under"),
    ([], "quick-1", "there is no run yet under"),
]


@pytest.mark.parametrize(
    ("command", "there", "name", "words"),
    [
        *((command, *case) for command in (["show"], ["export"], ["compare"]) for case in (*NO_RUNS, *NAMES)),
        *((["resume"], *case) for case in NAMES),  # where there is no ledger, a cluster is asked: see tests/ray
    ],
)
def test_an_unknown_run(
    orchestrate: Orchestrate, tmp_path: Path, command: list[str], there: list[str], name: str, words: str
) -> None:
    if there:
        runs(tmp_path, *there)
    ended = orchestrate(*command, name, *([tmp_path / "out.csv"] if command == ["export"] else []))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    if command != ["compare"]:
        assert words in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("told", [["--address", "127.0.0.1:6379"], "RAY_ADDRESS", "cluster.json"])
def test_a_run_of_a_cluster_is_looked_up_there(
    orchestrate: Orchestrate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str] | str
) -> None:
    """Not in what this host ran by itself before."""
    runs(tmp_path, "quick-1")
    options: list[str] = []
    if isinstance(told, list):
        options = told
    elif told == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    else:
        note(Noted("127.0.0.1:6379", "join", "node"))

    def asked(*_: object, **__: object) -> None:
        raise OrchestrateError("the cluster is asked")

    monkeypatch.setattr("orchestrator.cli.submit.link_coordinator", asked)
    for name in ("theirs-1", "quick-1", "latest"):
        ended = orchestrate("resume", name, *options)
        assert (ended.code, ended.err) == (1, "error: the cluster is asked\n")


def test_a_run_that_is_done_needs_no_cluster(orchestrate: Orchestrate, tmp_path: Path) -> None:
    runs(tmp_path, "quick-1")
    ended = orchestrate("resume")
    assert ended.code == 0
    assert ended.out.startswith("run quick-1: all jobs are done\n")


def test_a_run_by_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATE_HOME", str(tmp_path / "home"))
    runs(tmp_path, "quick-1", "slow-1")
    assert [find_run(name) for name in ("latest", "slow-1", "qu")] == ["slow-1", "slow-1", "quick-1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sbmit"], "sbmit"),
        (["plan"], "FILE"),
        (["plan", "--everything", "m.yaml"], "--everything"),
    ],
)
def test_a_bad_command_line(orchestrate: Orchestrate, arguments: list[str], words: str) -> None:
    ended = orchestrate(*arguments)
    assert ended.code == 2
    assert words in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", [["plan", "m.yaml"], ["resume"], ["show"]])
def test_a_ledger_of_a_newer_version(
    orchestrate: Orchestrate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    runs(tmp_path, "run-1")
    with sqlite3.connect(ledger_path(tmp_path / "home")) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    ended = orchestrate(*command)
    assert (ended.code, ended.out) == (1, "")
    assert "written by a newer version of orchestrate" in ended.err


def test_a_fault_of_the_program_leaves_its_traceback_in_a_file(
    orchestrate: Orchestrate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(file: Path) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("orchestrator.cli.plan.read_matrix", broken)
    ended = orchestrate("plan", write(tmp_path, GOOD))
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("error: a fault of orchestrate itself; please report it with ")
    assert "ZeroDivisionError: a fault" in Path(line.rpartition(" with ")[2]).read_text()


def test_ctrl_c_outside_of_a_run(orchestrate: Orchestrate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.cli.plan.read_matrix", interrupted)
    ended = orchestrate("plan", write(tmp_path, GOOD))
    assert ended.code == 130
    assert "Traceback" not in ended.err


def test_output_into_a_closed_pipe(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['orchestrate', 'schema']\nfrom orchestrator.cli import main; main()"
    read, write_end = os.pipe()
    os.close(read)
    environment = {"ORCHESTRATE_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")


def test_exit_codes() -> None:
    assert (OrchestrateError.exit_code, UsageError.exit_code, NoCluster.exit_code) == (1, 2, 1)
    assert issubclass(UsageError, OrchestrateError) and issubclass(NoCluster, OrchestrateError)
