from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest

from agents.contract.columns import column
from agents.contract.job import LoadSettings, MachineState, Runtime
from agents.contract.measure import EngineTimings
from agents.contract.report import Loaded, MachineSeen
from orchestrator.errors import UsageError
from orchestrator.report.results_page import results_page
from orchestrator.results import schema


@dataclasses.dataclass(frozen=True)
class NewSettings:
    fan_rpm: float | None = column("Fan speed asked for", unit="1/min", default=None)
    back_end: Runtime | None = column("A back end", default=None)
    not_a_column: int = 0


def test_a_contract_field_becomes_a_column_with_its_unit_and_definition() -> None:
    assert schema.contract_columns(NewSettings, "x_") == (
        schema.Column("x_fan_rpm", pa.float64(), "Fan speed asked for", "1/min"),
        schema.Column("x_back_end", pa.string(), "A back end"),
    )


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [(LoadSettings, ""), (MachineState, ""), (MachineSeen, ""), (Loaded, ""), (EngineTimings, "engine_")],
)
def test_trials_hold_every_declared_field_of_the_contract(kind: type, prefix: str) -> None:
    names = set(schema.schema("trials").names)
    declared = {prefix + each.name for each in dataclasses.fields(kind) if "definition" in each.metadata}
    assert declared and declared <= names


@pytest.mark.parametrize("table", schema.TABLES)
def test_names_are_unique_and_every_column_is_defined(table: str) -> None:
    wanted = schema.schema(table)
    assert len(set(wanted.names)) == len(wanted.names)
    assert all((field.metadata or {})[b"definition"] for field in wanted)
    assert wanted.metadata == {b"orchestrate.table": table.encode(), b"orchestrate.schema_version": b"1"}


@pytest.mark.parametrize("table", schema.TABLES)
def test_a_unit_in_a_name_is_the_unit_in_the_metadata(table: str) -> None:
    units = {
        "_bytes_per_s": "bytes/s",
        "_s": "s",
        "_bytes": "bytes",
        "_tps": "tokens/s",
        "_w": "W",
        "_tokens": "tokens",
        "_px": "px",
    }
    for each in schema.COLUMNS[table]:
        ending = next((ending for ending in units if each.name.endswith(ending)), None)
        if ending is not None:
            assert each.unit == units[ending], each.name


def test_an_unknown_table_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match='"trails"; did you mean "trials"'):
        schema.schema("trails")


def test_conform_adds_what_lacks_and_leaves_out_what_is_not_known() -> None:
    wanted = schema.schema("readings")
    found = pa.table({"value": pa.array([1, 2], pa.int32()), "new": ["x", "y"]})
    result = schema.conform(found, wanted)
    assert result.schema.equals(wanted, check_metadata=True)
    assert result.column("value").to_pylist() == [1.0, 2.0]
    assert result.column("run").null_count == 2


def test_the_page_is_what_the_schema_says() -> None:
    page = Path(__file__).parents[3] / "docs" / "results.md"
    assert page.read_text("utf-8") == results_page(), (
        "run: python -m orchestrator.report.results_page > docs/results.md"
    )
