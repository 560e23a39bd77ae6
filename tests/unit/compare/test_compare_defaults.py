from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from orchestrator.compare.defaults import MOST_COLUMNS, default_pivot
from orchestrator.report.pivot_table import pivot_table
from tests.unit.compare.made_trials import trials


def grid_of(axes: dict[str, list[Any]], **figures: Any) -> list[dict[str, Any]]:
    rows = (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
    return [row | ({"decode_tps": 1.0} | figures) for row in rows]


@pytest.mark.parametrize(
    ("axes", "down", "across"),
    [
        ({"model": ["a"]}, ("model",), ()),
        ({"model": ["a", "b"]}, ("model",), ()),
        ({"context_tokens": [1, 2]}, ("context_tokens",), ()),
        ({"model": ["a", "b"], "context_tokens": [1, 2]}, ("model",), ("context_tokens",)),
        (
            {"model": ["a", "b"], "context_tokens": [1, 2], "kv_type_k": ["f16", "q8_0"]},
            ("model", "context_tokens"),
            ("kv_type",),
        ),
        (
            {"power_limit_w": [55.0, 85.0, 120.0], "context_tokens": list(range(1, 9))},
            ("context_tokens",),
            ("power_limit_w",),
        ),
        ({"threads": list(range(9)), "batch_tokens": list(range(7))}, ("threads", "batch_tokens"), ()),
        ({"workload": ["a", "b"], "model": ["a", "b"]}, ("model", "workload"), ()),
    ],
)
def test_axes_with_few_values_go_across(
    axes: dict[str, list[Any]], down: tuple[str, ...], across: tuple[str, ...]
) -> None:
    (made,) = default_pivot(trials(*grid_of(axes)))
    assert (made.row_axes, made.col_axes) == (down, across)
    assert len(made.col_keys) <= MOST_COLUMNS
    assert not any("Put into the rows" in note for note in made.notes)


def test_a_workload_without_a_metric_is_left_out_of_it() -> None:
    table = trials(
        {"workload": "pp512", "prompt_tps": 100.0, "ttft_s": 5.0},
        {"workload": "tg128", "decode_tps": 10.0, "ttft_s": 0.1},
        {"workload": "broken", "status": "failed", "cause": "ram", "trial": None},
    )
    made = {each.metric.name: [key[0] for key in each.row_keys] for each in default_pivot(table)}
    assert made == {
        "decode_tps": ["broken", "tg128"],
        "prompt_tps": ["pp512"],
        "ttft_s": ["pp512", "tg128"],
    }


def test_a_run_in_which_everything_failed_has_a_table_too() -> None:
    (made,) = default_pivot(trials({"status": "failed", "cause": "vram", "trial": None}))
    assert [cell.text for row in pivot_table(made).rows for cell in row] == ["m", "does not load: VRAM"]
    (empty,) = default_pivot(trials())
    assert pivot_table(empty).rows == ()


def test_image_runs_are_compared_by_time_and_by_steps() -> None:
    table = trials(
        *(
            {
                "stop": None,
                "workload": workload,
                "device": device,
                "seconds_per_image": 4.0 * slow,
                "iteration_rate": 5.0 / slow,
            }
            for workload, (device, slow) in product(["one", "four"], [("a", 1), ("b", 2)])
        )
    )
    times, rates = default_pivot(table)
    assert (times.metric.name, rates.metric.name) == ("seconds_per_image", "iteration_rate")
    for made in (times, rates):
        assert {place for place, cell in made.groups.items() if cell.best} == {
            ((name,), ("a",)) for name in ("one", "four")
        }
    shown = pivot_table(times)
    assert [cell.text for cell in shown.rows[0]] == ["four", "4.00 x1.00", "8.00 x2.00"]
    assert shown.title.startswith("seconds_per_image, s/image: Workflow sent to its success received")
