"""``$ORCHESTRATE_HOME`` as an older version wrote it (``recordings/home_of_*``): all of it is still read."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

import orchestrator
from agents.agent.spool import Spool
from agents.contract.report import Cause, Failed
from orchestrator.cli.ledger_access import ledger_path
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.messages import RunStatus
from orchestrator.dispatch.runs import remaining_of, run_of_ledger
from orchestrator.results.store import Store
from tests.unit.cli.conftest import Orchestrate

RECORDED = Path(__file__).parents[2] / "recordings" / "home_of_d282cb7"
FINISHED, LEFT_OPEN = "finished-20261130-190613", "left-open-20261130-190621"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDED, tmp_path / "home"))


def test_its_runs_are_listed_and_shown(orchestrate: Orchestrate, home: Path) -> None:
    listed = orchestrate("results")
    assert (listed.code, FINISHED in listed.out, LEFT_OPEN in listed.out) == (0, True, True)
    assert orchestrate("show", FINISHED).code == 0
    assert "3 of 4 jobs left" in orchestrate("show", LEFT_OPEN).out
    status = json.loads(orchestrate("status", "--json").out)
    rows = {run["id"]: (run["doing"], run["jobs"], run["done"], run["left"]) for run in status["runs"]}
    assert rows == {FINISHED: ("running", 4, 4, 0), LEFT_OPEN: ("paused", 4, 1, 3)}


def test_its_figures_are_compared_and_exported(orchestrate: Orchestrate, home: Path, tmp_path: Path) -> None:
    compared = orchestrate("compare", FINISHED, "--cols", "kv_type", "--format", "csv")
    assert (compared.code, "q8_0" in compared.out) == (0, True)
    assert orchestrate("export", FINISHED, tmp_path / "all.parquet").code == 0
    trials = orchestrator.load(tmp_path / "all.parquet")
    assert set(trials.column("job_id").to_pylist()) == {
        path.stem.removesuffix("-1") for path in (home / "runs" / FINISHED / "trials").iterdir()
    }
    assert set(trials.column("run").to_pylist()) == {FINISHED}


def test_the_run_that_it_left_open_goes_on_where_it_stopped(home: Path) -> None:
    with closing(Ledger(ledger_path(home))) as ledger:
        added = remaining_of(ledger, Store(home), run_of_ledger(ledger, LEFT_OPEN))
    assert (added.run_id, added.status) == (LEFT_OPEN, RunStatus.PAUSED)
    assert [(job.job_id, job.attempt, job.failures) for job in added.jobs] == [
        ("6f77ba68cdc02c6c", 1, 0),
        ("7e237e05c67f7fc6", 0, 0),
        ("121c248b651397e8", 0, 0),
    ]


def test_a_report_that_waits_on_its_device_is_collected(home: Path) -> None:
    (report,) = Spool(home / "device" / "spool").reports()
    assert (report.run_id, report.job_id, report.attempt) == (LEFT_OPEN, "5a6b3515925c1593", 2)
    assert report.outcome == Failed(Cause.RAM, "no memory")
