"""``orchestrate import`` and ``export --format llama-bench`` as a person uses them."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from orchestrator.results.store import Store
from tests.unit.cli.conftest import Orchestrate
from tests.unit.results.made_attempts import DEVICE, job, report

RECORDED = Path(__file__).parents[2] / "recordings" / "llama_bench"
BENCH = RECORDED / "b11549.json"


def test_an_imported_run_is_listed_shown_compared_and_exported(orchestrate: Orchestrate, tmp_path: Path) -> None:
    ended = orchestrate("import", BENCH, RECORDED / "readme.json", "--device", "laptop")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        f"run b11549: 6 records, 18 trials imported from {BENCH} (llama-bench JSON)",
        f"run readme: 2 records, 10 trials imported from {RECORDED / 'readme.json'} (llama-bench JSON)",
        "see: orchestrate show readme",
    ]
    listed = [json.loads(line) for line in orchestrate("results", "--json").out.splitlines()]
    assert {(each["run"], *each["origins"], *each["devices"]) for each in listed} == {
        ("b11549", "imported", "laptop"),
        ("readme", "imported", "laptop"),
    }
    assert "origin" in orchestrate("results").out
    note = "Imported figures: measured by another tool, and by its own definitions."
    shown = orchestrate("show", "b11")  # by its beginning
    assert "tg16@d128" in shown.out and note in shown.out
    compared = orchestrate("compare", "b11549", "readme")
    assert compared.code == 0 and "119.03" in compared.out and note in compared.out
    assert orchestrate("compare", "b11", "read").out == compared.out
    down = compared.out.splitlines()[2].split()[0]
    assert orchestrate("compare", "b11", "--cols", down).code == 0  # what is taken from the rows, is
    exported = orchestrate("export", "readme", tmp_path / "r.csv")
    assert exported.out == f"{tmp_path / 'r.csv'}: 10 rows of trials\n"
    assert (orchestrate("export", "readme", "-").code, Path("-").exists()) == (0, False)
    assert orchestrate("--version").out.startswith("orchestrate ")


def test_a_pipe_and_the_same_again(orchestrate: Orchestrate, monkeypatch: pytest.MonkeyPatch) -> None:
    data = BENCH.read_bytes()
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        ended = orchestrate("import", "-", "--json")
    told = json.loads(ended.out)
    assert (told["file"], told["run"][:7], told["added"]) == ("standard input", "import-", False)
    assert orchestrate("import", BENCH).out.startswith(f"run {told['run']}: holds {BENCH} already; nothing changed\n")


def test_a_table_with_a_mapping(orchestrate: Orchestrate, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Model,t/s\nqwen,17.5\n")
    mapping = tmp_path / "m.yaml"
    mapping.write_text("columns: {model: Model, decode_tps: t/s}\nconstants: {engine: x, workload: tg128, device: d}\n")
    ended = orchestrate("import", tmp_path / "t.csv", "--map", mapping)
    assert (ended.code, ended.out.splitlines()[0][-len(f"(CSV by {mapping})") :]) == (0, f"(CSV by {mapping})")
    assert "17.50" in orchestrate("show", "t").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bad.json"], "bad.json: record 1: n_prompt"),
        ([str(BENCH), "bad.json"], "bad.json: record 1: n_prompt"),
        (["nothing.json"], "nothing.json: no such file"),
        (["bad.json", "--map", "nothing.yaml"], "nothing.yaml: no such file"),
        (["bad.json", "--map", "map.yaml"], "map.yaml:1: colum: unknown key"),
        (
            ["table.csv"],
            "table.csv: not llama-bench's CSV: n_prompt, n_gen, avg_ts missing. Its columns need a mapping",
        ),
        ([str(BENCH), "--run", "a b"], '--run "a b": allowed'),
    ],
)
def test_bad_input_keeps_nothing(
    orchestrate: Orchestrate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text('[{"n_prompt": "x", "n_gen": 0, "avg_ts": 1.0}]')
    Path("map.yaml").write_text("colum: {}")
    Path("table.csv").write_text("a\n1\n")
    ended = orchestrate("import", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {said}")
    assert not (tmp_path / "home" / "runs").exists()


def measured(folder: Path) -> None:
    Store(folder / "home").append(job(), report(job()), DEVICE)


def test_export_as_llama_bench(orchestrate: Orchestrate, tmp_path: Path) -> None:
    measured(tmp_path)
    to_file = orchestrate("export", "run-1", "--format", "llama-bench", "-o", tmp_path / "x.json", "--build", "mine")
    assert (to_file.code, to_file.out) == (0, f"{tmp_path / 'x.json'}: 1 test as llama-bench writes them\n")
    assert to_file.err == "build_commit mine----: embedded b1234\n"
    piped = orchestrate("export", "run-1", "--format", "llama-bench", "--build", "mine")
    assert piped.out == (tmp_path / "x.json").read_text()
    (record,) = json.loads(piped.out)
    assert (record["n_prompt"], record["n_gen"], record["n_depth"], record["avg_ts"]) == (16, 4, 8, 20.0)
    assert orchestrate("import", tmp_path / "x.json").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "llama-bench", "--table", "tokens"], "--table tokens: llama-bench has no such table"),
        (
            ["--format", "llama-bench", "x.json", "-o", "y.json"],
            "PATH x.json and --output y.json: one of them is enough",
        ),
        (["--format", "llama-bench", "-o", "no/x.json"], "no/x.json: there is no folder no"),
        (["--format", "llama-bench", "--where", "model=nix"], 'model: no value "nix". There are: tiny:llama'),
        (["--format", "csv"], "PATH is missing"),
        (["x.csv", "--build", "b"], "--where and --build: only with --format llama-bench"),
    ],
)
def test_exports_that_cannot_be(
    orchestrate: Orchestrate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    measured(tmp_path)
    ended = orchestrate("export", "run-1", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {said}")


def test_a_run_of_another_home_is_kept_apart_from_an_import(orchestrate: Orchestrate, tmp_path: Path) -> None:
    """A measured run whose ledger is elsewhere is still no place for imports."""
    measured(tmp_path)
    shutil.copy(BENCH, tmp_path / "run-1.json")
    ended = orchestrate("import", tmp_path / "run-1.json")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.endswith("run-1.json: run run-1 was measured here; give another name by --run\n")
