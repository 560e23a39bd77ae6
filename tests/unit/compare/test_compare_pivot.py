from __future__ import annotations

import csv
import io
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.report import CAUSES, Cause
from orchestrator.compare.groups import TrialGroup, summarise
from orchestrator.compare.pivot import Pivot, pivot
from orchestrator.errors import UsageError
from orchestrator.report.csv_lines import csv_lines
from orchestrator.report.pivot_table import pivot_table
from orchestrator.report.text_table import TextTable
from tests.unit.compare.made_trials import trials

CPU, VULKAN = {"runtime": "cpu"}, {"runtime": "vulkan"}


def only_cell(made: Pivot) -> TrialGroup:
    (cell,) = made.groups.values()
    return cell


def texts(shown: TextTable) -> list[tuple[str, ...]]:
    return [tuple(cell.text for cell in row) for row in shown.rows]


@pytest.mark.parametrize(
    ("values", "n", "median", "low", "high"),
    [
        ([3.0], 1, 3.0, 3.0, 3.0),
        ([4.0, 1.0], 2, 2.5, 1.0, 4.0),
        ([4.0, 1.0, 2.0, 3.0], 4, 2.5, 1.0, 4.0),
        ([5.0, 1.0, 2.0, 3.0, 4.0], 5, 3.0, 2.0, 4.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 6, 3.5, 2.25, 4.75),
    ],
)
def test_the_spread_is_as_defined(values: list[float], n: int, median: float, low: float, high: float) -> None:
    found = summarise(values)
    assert (found.n, found.median, found.low, found.high) == pytest.approx((n, median, low, high))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
def test_the_median_lies_in_its_spread_and_the_spread_in_the_values(values: list[float]) -> None:
    found = summarise(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values) or found.high == pytest.approx(
        found.low
    )


def test_warmups_and_flagged_trials_are_no_part_of_the_median_but_the_flagged_are_counted() -> None:
    table = trials(
        {"decode_tps": 10.0},
        {"decode_tps": 12.0},
        {"decode_tps": 99.0, "warmup": True},
        {"decode_tps": 50.0, "flags": ["prompt_cached", "fewer_tokens"]},
    )
    made = pivot(table, ["model"], [], "decode_tps")
    cell = only_cell(made)
    assert cell.summary is not None and (cell.summary.median, cell.summary.n) == (11.0, 2)
    assert cell.flagged == (("fewer_tokens", 1), ("prompt_cached", 1)) and not cell.only_flagged
    shown = pivot_table(made)
    assert texts(shown) == [("m", "11.00 [10.00..12.00] !")]
    assert "Flagged trials: 1 fewer_tokens (fewer tokens than asked for)" in "\n".join(shown.notes)
    assert any(note.startswith("!:") for note in shown.notes)


def test_a_summarise_group_flagged_trials_is_shown_but_not_compared() -> None:
    table = trials({"decode_tps": 10.0, **CPU}, {"decode_tps": 50.0, "flags": ["prompt_cached"], **VULKAN})
    made = pivot(table, ["model"], ["runtime"], "decode_tps", baseline=["runtime=vulkan"])
    assert texts(pivot_table(made)) == [("m", "50.00 ?", "10.00")]
    assert not any(cell.best or cell.ratio for cell in made.groups.values())


@pytest.mark.parametrize("cause", Cause)
def test_a_failure_is_told_in_its_cell_in_the_words_for_people(cause: Cause) -> None:
    table = trials({"status": "failed", "cause": cause.value, "trial": None})
    assert texts(pivot_table(pivot(table, ["model"], [], "decode_tps"))) == [("m", CAUSES[cause].description)]


def test_a_cell_that_sometimes_fails_shows_both() -> None:
    failed = {"status": "failed", "cause": "ram", "trial": None}
    table = trials({"decode_tps": 10.0}, failed, failed, {"status": "refused", "cause": "a_new_cause", "trial": None})
    assert texts(pivot_table(pivot(table, ["model"], [], "decode_tps"))) == [
        ("m", "10.00; a_new_cause (1 of 4); does not load: RAM (2 of 4)")
    ]


def test_of_a_retried_job_the_last_attempt_counts() -> None:
    table = trials(
        {"job_id": "a", "attempt": 1, "status": "failed", "cause": "engine_lost", "trial": None},
        {"job_id": "a", "attempt": 2, "decode_tps": 10.0},
    )
    made = pivot(table, ["model"], [], "decode_tps")
    assert texts(pivot_table(made)) == [("m", "10.00")]
    assert made.notes == ("1 earlier attempt of retried jobs left out.",)


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({"kv_type_k": "f16", "kv_type_v": "f16"}, {"kv_type_k": "q8_0", "kv_type_v": "q8_0"}, "kv_type"),
        ({"power_limit_w": 55.0}, {"power_limit_w": 80.0}, "power_limit"),
        ({"workload": "tg128"}, {"workload": "tg256"}, "workload"),
        ({"max_tokens": 128}, {"max_tokens": 256}, "max_tokens"),
        ({"run": "r1"}, {"run": "r2"}, "run"),
        ({"device": "a"}, {"device": "b"}, "device"),
        ({"engine_version": "b1"}, {"engine_version": "b2"}, "engine_version"),
        ({"fingerprint": "f1"}, {"fingerprint": "f2"}, "fingerprint"),
    ],
)
def test_nothing_but_repeats_is_averaged(first: dict[str, Any], second: dict[str, Any], named: str) -> None:
    table = trials({"decode_tps": 10.0, **first}, {"decode_tps": 20.0, **second})
    made = pivot(table, ["model"], [], "decode_tps")
    assert pivot_table(made).headers == ("model", named, "decode_tps")
    assert sorted(cell.summary.median for cell in made.groups.values() if cell.summary) == [10.0, 20.0]
    assert made.notes == (f"Put into the rows, because it varies and was not named: {named}.",)


def test_an_axis_that_follows_another_takes_no_column_of_its_own() -> None:
    table = trials(
        {"decode_tps": 1.0, "workload": "a", "max_tokens": 8}, {"decode_tps": 2.0, "workload": "b", "max_tokens": 9}
    )
    made = pivot(table, ["workload"], [], "decode_tps")
    assert (made.row_axes, made.notes) == (("workload",), ())


def test_columns_that_differ_in_more_than_they_say_are_told() -> None:
    table = trials(
        {"decode_tps": 1.0, "power_limit_w": 55.0, **CPU}, {"decode_tps": 2.0, "power_limit_w": 80.0, **VULKAN}
    )
    made = pivot(table, ["model"], ["runtime"], "decode_tps")
    assert made.row_axes == ("model",)
    assert made.notes == ("Columns differ in more than their heading says: power_limit.",)


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("decode_tps", (1.0, 2.0), [False, True]),
        ("ttft_s", (1.0, 2.0), [True, False]),
        ("decode_tps", (2.0, 2.0), [True, True]),
        ("completion_tokens", (1, 2), [False, False]),
        ("decode_tps", (None, 2.0), [False, False]),
    ],
)
def test_best_goes_by_the_metrics_direction_and_needs_two(
    metric: str, values: tuple[Any, Any], best: list[bool]
) -> None:
    table = trials({metric: values[0], **VULKAN}, {metric: values[1], **CPU})
    made = pivot(table, ["model"], ["runtime"], metric)
    assert [made.groups[("m",), col].best for col in made.col_keys] == best


def test_overlapping_spreads_are_no_verdict() -> None:
    rows = [{"decode_tps": value, **VULKAN} for value in (10.0, 14.0)]
    near = [{"decode_tps": value, **CPU} for value in (9.0, 13.0)]
    far = [{"decode_tps": value, **CPU} for value in (1.0, 2.0)]
    undecided, decided = (pivot(trials(*rows, *each), ["model"], ["runtime"], "decode_tps") for each in (near, far))
    said = "No verdict, and no mark, for the best median: another cell's spread overlaps."
    for made, marks in ((undecided, 0), (decided, 1)):
        shown = pivot_table(made)
        assert sum(cell.best for row in shown.rows for cell in row) == marks
        assert (said in shown.notes, bool(shown.best_note)) == (not marks, bool(marks))


def test_what_was_measured_is_said_where_no_heading_says_it() -> None:
    same = pivot(
        trials({**CPU, "decode_tps": 1.0}, {**VULKAN, "decode_tps": 2.0}), ["model"], ["runtime"], "decode_tps"
    )
    assert same.everywhere == ("In all cells: device laptop, engine embedded, workload tg128.",)
    one, two = ({"decode_tps": 1.0, "model": name, "quantisation": q} for name, q in (("a", "Q4_0"), ("b", "Q8_0")))
    zipped = pivot(trials(one, two), ["model"], ["runtime"], "decode_tps")
    assert "Rows differ in more than their names say: quantisation." in zipped.everywhere


def test_ratio_to_a_baseline_in_rows_or_columns() -> None:
    table = trials(
        {"decode_tps": 10.0, **CPU}, {"decode_tps": 25.0, **VULKAN}, {"decode_tps": 9.0, "model": "x", **VULKAN}
    )
    across = pivot(table, ["model"], ["runtime"], "decode_tps", baseline=["runtime=cpu"])
    down = pivot(table, ["model", "runtime"], [], "decode_tps", baseline=["runtime=CPU"])
    for made in (across, down):
        ratios = [cell.ratio for cell in made.groups.values()]
        assert sorted(ratio for ratio in ratios if ratio is not None) == [1.0, 2.5]
        assert ratios.count(None) == 1, "no baseline for model x"
    shown = pivot_table(across)
    assert texts(shown) == [("m", "25.00 x2.50", "10.00 x1.00"), ("x", "9.00", "")]
    assert "xN: median / median at runtime=cpu." in shown.notes


@pytest.mark.parametrize(
    ("where", "left"),
    [
        (["context=16K"], {1.0}),
        (["context=16384"], {1.0}),
        (["context=16K,64K"], {1.0, 2.0}),
        (["dedicated_vram=32GiB"], {2.0}),
        (["vram_is=none"], None),
        (["dedicated_vram=32 GiB", "power_limit=80W"], {2.0}),
        (["power_limit=80"], {1.0, 2.0}),
        (["flash_attention=on"], {1.0}),
        (["flash_attention=none"], {3.0}),
    ],
)
def test_filters_take_values_as_people_write_them(where: list[str], left: set[float] | None) -> None:
    common = {"power_limit_w": 80.0}
    table = trials(
        {"decode_tps": 1.0, "context_tokens": 2**14, "flash_attention": True, **common},
        {"decode_tps": 2.0, "context_tokens": 2**16, "dedicated_vram_bytes": 2**35, "flash_attention": False, **common},
        {"decode_tps": 3.0, "context_tokens": 2**17, "power_limit_w": 55.0},
    )
    if left is None:
        with pytest.raises(UsageError, match="unknown axis"):
            pivot(table, ["model"], [], "decode_tps", where=where)
        return
    made = pivot(table, ["model"], [], "decode_tps", where=where)
    assert {cell.summary.median for cell in made.groups.values() if cell.summary} == left


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"rows": ["contxt"]}, 'unknown axis "contxt"; did you mean "context"? Allowed: '),
        ({"value": "decode_tsp"}, 'unknown metric "decode_tsp"; did you mean "decode_tps"? Allowed: '),
        ({"with_metric": "tokens"}, 'unknown metric "tokens"'),
        ({"cols": ["model"]}, 'axis "model" is asked for in the rows and in the columns'),
        ({"where": ["runtime=vulcan"]}, 'runtime: no value "vulcan"; did you mean "vulkan"? There are: vulkan, cpu'),
        ({"where": ["runtime"]}, 'filter "runtime": AXIS=VALUE is wanted'),
        ({"baseline": ["device=laptop"]}, 'baseline "device=laptop": not an axis of this table. Allowed: model'),
        ({"cols": ["runtime"], "baseline": ["runtime=cpu,vulkan"]}, "one value is wanted"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_ones(asked: dict[str, Any], said: str) -> None:
    table = trials({"decode_tps": 1.0, **CPU}, {"decode_tps": 1.0, **VULKAN})
    words: dict[str, Any] = {"rows": ["model"], "cols": [], "value": "decode_tps"} | asked
    with pytest.raises(UsageError) as caught:
        pivot(table, **words)
    assert said in str(caught.value)


def test_a_table_can_have_columns_only() -> None:
    table = trials({"decode_tps": 1.0, **CPU}, {"decode_tps": 2.0, **VULKAN})
    shown = pivot_table(pivot(table, [], ["runtime"], "decode_tps"))
    assert (shown.headers, texts(shown)) == (("vulkan", "cpu"), [("2.00", "1.00")])


def test_without_trials_there_is_a_table_that_says_so() -> None:
    shown = pivot_table(pivot(trials(), ["model"], ["runtime"], "decode_tps"))
    assert shown.rows == () and "No trials." in shown.notes


def test_the_number_of_trials_is_told_where_it_differs() -> None:
    rows = [{"decode_tps": 10.0, **CPU}] * 3 + [{"decode_tps": 10.0, "model": "x", **CPU}] * 3
    shown = pivot_table(pivot(trials(*rows, {"decode_tps": 5.0, **VULKAN}), ["model"], ["runtime"], "decode_tps"))
    assert texts(shown)[0] == ("m", "5.00 n=1", "10.00 [10.00..10.00]")
    assert any("median of n = 3 trials" in note and "smallest to largest" in note for note in shown.notes)


def test_csv_holds_a_line_a_cell_with_values_as_in_the_tables() -> None:
    table = trials(
        {"decode_tps": 10.0, "context_tokens": 2**14, "completion_tokens": 7},
        {"decode_tps": 12.0, "context_tokens": 2**14, "completion_tokens": 9},
        {"status": "failed", "cause": "ram", "trial": None, "context_tokens": 2**16},
    )
    text = csv_lines(pivot(table, ["model"], ["context"], "decode_tps", with_metric="completion_tokens"))
    first, second = csv.DictReader(io.StringIO(text))
    assert first == {
        "model": "m",
        "context_tokens": "16384",
        "metric": "decode_tps",
        "unit": "tokens/s",
        "median": "11.0",
        "low": "10.0",
        "high": "12.0",
        "n": "2",
        "with_metric": "completion_tokens",
        "with": "8.0",
        "ratio": "",
        "best": "false",
        "only_flagged": "false",
        "flagged": "",
        "failures": "",
        "silent": "",
        "notes": "",
    }
    assert (second["median"], second["n"], second["failures"]) == ("", "0", "does not load: RAM:1")


def test_csv_of_several_pivots_is_one_table() -> None:
    table = trials({"decode_tps": 10.0, "ttft_s": 0.5, "context_tokens": 2**14, "threads": 4})
    pivots = (pivot(table, ["context"], [], "decode_tps"), pivot(table, ["threads"], [], "ttft_s"))
    rows = list(csv.DictReader(io.StringIO(csv_lines(*pivots))))
    found = [(row["context_tokens"], row["threads"], row["metric"], row["median"]) for row in rows]
    assert found == [("16384", "", "decode_tps", "10.0"), ("", "4", "ttft_s", "0.5")]


def test_a_pivot_with_a_metric_that_is_a_column_too_keeps_both() -> None:
    table = trials({"ttft_s": 0.04, "load_s": 2.0})
    assert texts(pivot_table(pivot(table, ["model"], [], "ttft_s", with_metric="load_s"))) == [("m", "0.04 (2.00)")]


def test_a_run_beside_a_file_exported_from_it_counts_once() -> None:
    table = trials({"decode_tps": 1.0}, {"decode_tps": 3.0})
    twice = pa.concat_tables([table, table])
    assert only_cell(pivot(twice, ["model"], [], "decode_tps")) == only_cell(pivot(table, ["model"], [], "decode_tps"))
