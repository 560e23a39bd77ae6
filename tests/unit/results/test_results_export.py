from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import orchestrator
from orchestrator.errors import UsageError
from orchestrator.results import schema
from orchestrator.results.export import EXPORT_FORMATS, ExportFormat, export, export_format
from orchestrator.results.loading import load_runs
from orchestrator.results.reference import load_reference
from orchestrator.results.store import Store
from tests.unit.results.made_attempts import DEVICE, FAILED, IMAGED, REFUSED, job, report


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "results")
    for number, outcome in enumerate((None, FAILED, REFUSED, IMAGED)):
        asked = job(f"j{number}")
        made = report(asked) if outcome is None else report(asked, outcome)
        store.append(asked, made, DEVICE)
    return store


@pytest.mark.parametrize("kind", [each.name for each in EXPORT_FORMATS])
@pytest.mark.parametrize("table", schema.TABLES)
def test_each_table_comes_back_from_each_format(store: Store, tmp_path: Path, kind: str, table: str) -> None:
    was = store.load("run-1", table)
    assert was.num_rows
    path = export(was, tmp_path / f"{table}{export_format(kind).endings[0]}")
    back = orchestrator.load(path, table)
    assert back.schema.equals(was.schema)
    assert back.equals(was)


def test_a_made_up_format_is_one_line(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written by its name and by its ending, and the message about an unknown format names it."""

    def count_rows(table: pa.Table, file: BinaryIO) -> None:
        file.write(f"{table.num_rows} rows".encode())

    line = ExportFormat("made-up", (".mu",), count_rows)
    monkeypatch.setattr("orchestrator.results.export.EXPORT_FORMATS", (*EXPORT_FORMATS, line))
    was = store.load("run-1")
    assert export(was, tmp_path / "a.mu").read_text() == f"{was.num_rows} rows"
    assert export(was, tmp_path / "any", "made-up").read_text() == f"{was.num_rows} rows"
    with pytest.raises(UsageError, match="Allowed: parquet, arrow, csv, jsonl, made-up"):
        export(was, tmp_path / "any", "other")
    with pytest.raises(UsageError, match="a file that is only written"):
        orchestrator.load(tmp_path / "a.mu")


def of_type(kind: pa.DataType) -> st.SearchStrategy[Any]:
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    if pa.types.is_string(kind):
        return text
    plain = {
        pa.bool_(): st.booleans(),
        pa.int64(): st.integers(-(2**63), 2**63 - 1),
        pa.float64(): st.floats(allow_nan=False, allow_infinity=False),
        pa.timestamp("us", tz="UTC"): st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    }
    if kind in plain:
        return plain[kind]
    if pa.types.is_map(kind):
        return st.dictionaries(text, text | st.none(), max_size=3).map(lambda pairs: list(pairs.items()))
    return st.lists(text, max_size=3)


NAMES = ("run", "attempt", "warmup", "detail", "started_at", "ttft_s", "settings", "flags", "temperature", "output")
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | of_type(schema.schema().field(name).type) for name in NAMES}),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("kind", [each.name for each in EXPORT_FORMATS])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_any_value_comes_back(tmp_path: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    was = pa.Table.from_pylist(rows, schema=schema.schema())
    back = orchestrator.load(export(was, tmp_path / f"any{export_format(kind).endings[0]}"))
    assert back.equals(was)


def test_json_has_no_word_for_infinity(tmp_path: Path) -> None:
    was = pa.Table.from_pylist([{"value": math.inf}, {"value": math.nan}], schema=schema.schema("readings"))
    lines = export(was, tmp_path / "r.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["value"] for line in lines] == [None, None]


def test_csv_tells_nothing_from_an_empty_text(tmp_path: Path) -> None:
    was = pa.Table.from_pylist([{"run": "", "detail": 'a "b",\nc'}, {"run": None}], schema=schema.schema())
    back = orchestrator.load(export(was, tmp_path / "t.csv"))
    assert back.column("run").to_pylist() == ["", None]
    assert back.column("detail").to_pylist() == ['a "b",\nc', None]


def test_the_format_can_be_named_against_the_ending(store: Store, tmp_path: Path) -> None:
    path = export(store.load("run-1"), tmp_path / "trials.txt", "jsonl")
    assert len(path.read_text("utf-8").splitlines()) == 6


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [("t.xlsx", None, "format not known"), ("t.csv", "parket", 'did you mean "parquet"')],
)
def test_an_unknown_format_is_refused(tmp_path: Path, name: str, kind: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        export(schema.schema().empty_table(), tmp_path / name, kind)
    assert list(tmp_path.iterdir()) == []


def test_load_takes_a_run_a_root_and_a_single_file(store: Store) -> None:
    folder = store.run_folder("run-1")
    whole = store.load("run-1")
    assert orchestrator.load(folder).equals(whole)
    assert orchestrator.load(str(store.root)).equals(whole)
    assert orchestrator.load(folder / "trials" / "j0-1.parquet").num_rows == 2
    assert orchestrator.load(folder / "trials" / "j0-1.parquet", "tokens").num_rows == 8


def test_a_root_with_several_runs_wants_a_name(store: Store) -> None:
    asked = job("x", run_id="run-2")
    store.append(asked, report(asked, run_id="run-2"), None)
    with pytest.raises(UsageError, match="2 runs, say which: run-1, run-2"):
        orchestrator.load(store.root)
    assert set(orchestrator.load(store.root, run="run-2").column("run").to_pylist()) == {"run-2"}
    both = load_runs(["run-1", "reference:aimax395-64g", "run-2"], store.root)
    assert load_runs(["run-2", "run-2"], store.root).num_rows == 2
    assert both.num_rows == 6 + 16 + 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nothing.parquet", None, "no such file"),
        ("t.parquet", b"PAR1", "cannot be read as trials"),
        ("t.arrow", b"ARROW1", "cannot be read as trials"),
        ("t.csv", b"run,speed\n1,2\n", 'unknown column "speed"'),
        ("t.csv", b"run,attempt\nx,one\n", "cannot be read as trials"),
        ("t.jsonl", b'{"run": 1}\n', "cannot be read as trials"),
        ("t.jsonl", b'{"speed": 1}\n', 'unknown column "speed"'),
        ("t.jsonl", b"[1]\n", "not an object"),
        ("t.jsonl", b"{\n", "cannot be read as trials"),
        ("t.csv", b"", "does not hold trials"),
        ("t.csv", b"\xff\xfe\x00", "t.csv"),
        ("t.doc", b"", "format not known"),
    ],
)
def test_what_cannot_be_loaded_is_an_error_for_people(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        orchestrator.load(path)
    assert str(path) in str(caught.value)


def test_another_table_than_the_file_holds_is_refused(store: Store, tmp_path: Path) -> None:
    path = export(store.load("run-1", "tokens"), tmp_path / "tokens.parquet")
    with pytest.raises(UsageError, match='holds "tokens", not trials'):
        orchestrator.load(path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    with pytest.raises(UsageError, match="no table of Orchestrate"):
        orchestrator.load(tmp_path / "foreign.parquet")


def test_an_unknown_run_or_reference_is_answered_with_the_nearest(store: Store) -> None:
    with pytest.raises(UsageError, match='did you mean "run-1"'):
        load_runs(["run_1"], store.root)
    with pytest.raises(UsageError, match='did you mean "aimax395-64g"'):
        load_reference("reference:aimax395-46g")


def test_importing_the_packages_stays_free_of_pyarrow() -> None:
    code = "import orchestrator.results, orchestrator.compare, sys; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
