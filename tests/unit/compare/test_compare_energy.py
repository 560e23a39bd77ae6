"""Energy per token in a comparison, and telemetry's columns on the rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.measure import Flag
from agents.contract.report import Measured
from agents.contract.usage import Energy, Usage
from orchestrator.compare.axes import METRICS
from orchestrator.compare.energy import DERIVED
from orchestrator.compare.pivot import pivot
from orchestrator.compare.trials import choose_trials
from orchestrator.results import schema
from orchestrator.results.rows import rows_of
from tests.unit.results.made_attempts import DEVICE, FAILED, LOADED, job, report, trial

USAGE = Usage(vram_baseline_bytes=1, vram_peak_bytes=5, vram_used_by_model_bytes=4, gpu_busy_mean_pct=97.0)
ENERGY = Energy(
    energy_source="rapl",
    energy_scope="package",
    idle_power_w=10.0,
    prompt_energy_j=32.0,
    decode_energy_j=120.0,
    decode_energy_above_idle_j=90.0,
    decode_power_w=40.0,
)
METRIC = ("joules_per_token", "joules_per_token_above_idle", "tokens_per_joule", "prompt_joules_per_token")


def test_usage_stands_on_the_row_of_the_measured_trial_alone() -> None:
    made = replace(report(job()), usage=USAGE, energy=ENERGY)
    warmup, measured = rows_of(job(), made, DEVICE).to_pylist()
    assert (warmup["vram_used_by_model_bytes"], warmup["decode_energy_j"]) == (None, None)
    assert (measured["vram_used_by_model_bytes"], measured["decode_energy_j"]) == (4, 120.0)
    _, ended = rows_of(job(), replace(made, outcome=FAILED), DEVICE).to_pylist()
    assert (ended["status"], ended["vram_peak_bytes"]) == ("failed", 5)


def test_every_column_of_usage_is_one_and_every_number_a_metric() -> None:
    names = [each.name for each in schema.USED]
    assert {"vram_baseline_bytes", "ram_used_by_model_bytes", "gpu_power_mean_w", "energy_scope"} <= set(names)
    assert len(names) == len(set(names)) == len({*names} & {each.name for each in schema.TRIALS})
    assert {"gpu_power_mean_w", "decode_energy_j", *DERIVED} <= set(METRICS)
    assert METRICS["vram_used_by_model_bytes"].better == METRICS["joules_per_token"].better == "lower"
    assert METRICS["tokens_per_joule"].better == "higher"


def test_joules_per_token() -> None:
    table = rows_of(job(), replace(report(job()), energy=ENERGY), DEVICE)  # 10 tokens/s, 16 prompt tokens
    (row,) = choose_trials(table, METRIC).rows
    assert [row[name] for name in METRIC] == [pytest.approx(each) for each in (4.0, 3.0, 0.25, 2.0)]


def test_what_is_not_known_is_null_not_zero() -> None:
    (row,) = choose_trials(rows_of(job(), report(job()), DEVICE), METRIC).rows
    assert [row[name] for name in METRIC] == [None] * 4


def test_a_flagged_trial_is_left_out_of_the_figure() -> None:
    tables = []
    for number, (flags, power_w) in enumerate([((), 40.0), ((), 42.0), ((Flag.THROTTLED,), 5.0)]):
        asked = job(f"job-{number}", repeat=number)
        outcome = Measured(LOADED, (trial(0, flags=flags),))
        made = replace(report(asked, outcome), energy=replace(ENERGY, decode_power_w=power_w))
        tables.append(rows_of(asked, made, DEVICE))
    import pyarrow as pa

    (cell,) = pivot(pa.concat_tables(tables), ["model"], ["engine"], "joules_per_token").groups.values()
    assert cell.summary is not None
    assert cell.summary.n == 2
    assert cell.summary.median == pytest.approx(4.1)
    assert cell.flagged == (("throttled", 1),)
