"""A submitted matrix becomes a run: its rows in the ledger, its folder, and a row for what fits no device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from agents.contract.job import Chat, Image
from orchestrator.dispatch.admit import admitted, new_run, why_nothing_runs
from orchestrator.dispatch.api import Submission
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.runs import remaining_of, run_of_ledger
from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.matrix import expand, matrix_from_json, matrix_to_json, parse_matrix
from orchestrator.plan.jobs import plan_jobs
from orchestrator.results.store import Store
from tests.fakes.matrices import matrix_and_cells, matrix_of
from tests.unit.dispatch.submitted_run import A, B

MATRIX = "name: two\naxes: {model: tiny:llama, workload: [pp8, tg8]}\nmeasure: {repeats: 2}\n"
SOME_FIT = (
    "name: some\naxes: {model: tiny:llama, workload: pp8, device: [alpha, gamma, delta]}\nmeasure: {repeats: 2}\n"
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as made:
        yield made


def submission(text: str, *, confirmed: bool = False, priority: int = 0) -> Submission:
    return Submission(matrix_to_json(matrix_of(text)), confirmed, priority)


def folders(root: Path) -> list[str]:
    return sorted(each.name for each in (root / "runs").iterdir()) if (root / "runs").exists() else []


def test_what_a_submit_leaves(tmp_path: Path, ledger: Ledger) -> None:
    run, unplaced = admitted(submission(MATRIX, priority=3), [A, B], ledger, Store(tmp_path), tmp_path)
    assert run.run_id.startswith("two-2")
    assert folders(tmp_path) == [run.run_id]
    row = ledger.run(run.run_id)
    assert (row.name, row.priority, row.jobs, row.done) == ("two", 3, 8, 0)
    rows = ledger.jobs(run.run_id)
    assert [each.job_id for each in rows] == list(run.jobs)
    assert [(each.cell_id, each.device_id, each.repeat) for each in rows] == [
        (job.cell.cell_id, job.device_id, job.repeat) for job in run.jobs.values()
    ]
    assert unplaced == ()


def test_it_is_the_same_run_after_a_restart(tmp_path: Path, ledger: Ledger) -> None:
    run, _ = admitted(submission(MATRIX), [A, B], ledger, Store(tmp_path), tmp_path)
    assert list(run_of_ledger(ledger, run.run_id).jobs) == list(run.jobs)


def test_cells_that_fit_no_device_are_rows(tmp_path: Path, ledger: Ledger) -> None:
    store = Store(tmp_path)
    run, unplaced = admitted(submission(SOME_FIT), [A], ledger, store, tmp_path)
    told = ["no device delta; known: alpha", "no device gamma; known: alpha"]
    assert sorted(unplaced) == told
    rows = store.load(run.run_id).to_pylist()
    assert sorted((row["status"], row["cause"], row["detail"]) for row in rows) == [
        ("refused", "no_device", why) for why in told
    ]
    assert ledger.run(run.run_id).jobs == 2, "they are no jobs"
    added = remaining_of(ledger, store, run_of_ledger(ledger, run.run_id))
    assert len(added.jobs) == 2, "and none is taken for done"


@pytest.mark.parametrize(
    ("text", "devices", "words"),
    [
        ("axes: {model: tiny:llama, workload: pp8, device: gamma}\n", (A, B), "no device gamma; known: alpha, beta"),
        ("axes: {model: tiny:llama, workload: pp8}\n", (), "no device fits the matrix's devices: section; known: none"),
    ],
)
def test_what_no_device_can_run_leaves_nothing(
    tmp_path: Path, ledger: Ledger, text: str, devices: tuple[object, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        admitted(submission(text), devices, ledger, Store(tmp_path), tmp_path)  # type: ignore[arg-type]
    assert ledger.runs() == []
    assert folders(tmp_path) == []


def test_too_many_jobs_must_be_meant(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted again here: whoever submits does not know how many devices there are."""
    monkeypatch.setattr(import_module("orchestrator.matrix.expand"), "ASK_ABOVE_JOBS", 7)
    with pytest.raises(UsageError, match="2 cells x 2 repeats x 2 devices = 8 jobs; more than 7 need --yes"):
        admitted(submission(MATRIX), [A, B], ledger, Store(tmp_path), tmp_path)
    assert folders(tmp_path) == []
    run, _ = admitted(submission(MATRIX, confirmed=True), [A, B], ledger, Store(tmp_path), tmp_path)
    assert ledger.run(run.run_id).jobs == 8


def test_a_ledger_that_takes_no_more_leaves_no_run_in_it(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OrchestrateError("the disk is full")

    monkeypatch.setattr(ledger, "add", full)
    with pytest.raises(OrchestrateError, match="full"):
        admitted(submission(MATRIX), [A], ledger, Store(tmp_path), tmp_path)
    assert ledger.runs() == []
    assert Store(tmp_path).runs() == ()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "devices: {gpu_vendor: nvidia}\naxes: {model: tiny:llama, workload: [pp8, tg8]}\n",
            [
                "alpha: its GPU is by amd, not nvidia",
                "beta: its GPU is by amd, not nvidia",
                "no device fits the matrix's devices: section; known: alpha, beta",
            ],
        ),
        (
            "axes: {model: tiny:llama, workload: pp8, device: [gamma, delta]}\n",
            ["no device delta; known: alpha, beta", "no device gamma; known: alpha, beta"],
        ),
    ],
)
def test_why_nothing_runs(text: str, lines: list[str]) -> None:
    matrix, cells = matrix_and_cells(text)
    why = why_nothing_runs(matrix, plan_jobs(matrix, cells, [A, B]), [A, B]).splitlines()
    assert why[0].endswith("m.yaml: no device can run any cell of this matrix:")
    assert [line.strip() for line in why[1:]] == lines


def test_runs_of_one_second_have_names_of_their_own(tmp_path: Path) -> None:
    names = [new_run("m", tmp_path) for _ in range(3)]
    assert len(set(names)) == 3
    assert folders(tmp_path) == sorted(names)


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where a folder should be")
    with pytest.raises(OrchestrateError, match="cannot be written: Not a directory"):
        new_run("m", tmp_path / "home")


def test_the_matrix_travels_with_the_files_that_it_names(tmp_path: Path, ledger: Ledger) -> None:
    """The coordinator may be on another machine: what the ledger keeps makes the same jobs without the files."""
    picture = (Path(__file__).parents[3] / "matrices" / "images" / "screenshot.png").read_bytes()
    text = (
        "axes: {model: tiny:llama, workload: shot}\nmeasure: {repeats: 1}\n"
        "workloads: {shot: {prompt: What is it?, image: shot.png, max_tokens: 8}}\n"
    )
    matrix = parse_matrix(text, tmp_path / "m.yaml", lambda _: picture)
    run, _ = admitted(Submission(matrix_to_json(matrix)), [A], ledger, Store(tmp_path), tmp_path)
    (job,) = run.jobs.values()
    workload = job.cell.workload
    assert isinstance(workload, Chat) and isinstance(workload.image, Image)
    again = matrix_from_json(ledger.matrix(run.run_id))
    assert [cell.workload for cell in expand(again)] == [workload]
    assert replace(again, path=matrix.path) == matrix


def test_what_the_ledger_does_not_take_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, _ = matrix_and_cells("axes: {model: tiny:llama, workload: pp8}\n")

    def full(*_: object, **__: object) -> None:
        raise OrchestrateError("database or disk is full")

    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        monkeypatch.setattr(ledger, "add", full)
        with pytest.raises(OrchestrateError, match="full"):
            admitted(Submission(matrix_to_json(matrix)), [A], ledger, Store(tmp_path), tmp_path)
    assert folders(tmp_path) == []
