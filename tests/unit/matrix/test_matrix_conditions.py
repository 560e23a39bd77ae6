"""``measure:`` says what a trial should find: quiet, mains, cool."""

from __future__ import annotations

import pytest

from agents.contract.job import Conditions
from orchestrator.matrix import MatrixErrors, matrix_from_json, matrix_to_json
from orchestrator.plan.jobs import job_of, plan_jobs
from tests.fakes.matrices import matrix_and_cells, matrix_of
from tests.unit.results.made_attempts import DEVICE

AXES = "axes: {model: tiny:llama, workload: pp8}\n"


@pytest.mark.parametrize(
    ("measure", "conditions"),
    [
        ("{}", Conditions()),
        ("{quiet: false}", Conditions(quiet=False)),
        ("{quiet: on}", Conditions()),
        ("{on_battery: allow}", Conditions(battery_allowed=True)),
        ("{on_battery: flag}", Conditions()),
        ("{cool_down: 60s}", Conditions(cool_down_s=60.0)),
    ],
)
def test_conditions_reach_the_job_and_outlive_a_restart(measure: str, conditions: Conditions) -> None:
    matrix, cells = matrix_and_cells(f"{AXES}measure: {measure}")
    (planned, *_) = plan_jobs(matrix, cells, [DEVICE]).queues[DEVICE.device_id]
    assert job_of(matrix, "run", planned, 1).conditions == conditions
    assert matrix_from_json(matrix_to_json(matrix)).measure.conditions == conditions


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ("{quiet: loud}", "measure.quiet"),
        ("{on_battery: yes}", "measure.on_battery"),
        ("{on_battery: refuse}", "flag, allow"),
        ("{cool_down: 60}", "measure.cool_down"),
        ("{cool_down: 0s}", "measure.cool_down"),
    ],
)
def test_bad_conditions(measure: str, words: str) -> None:
    with pytest.raises(MatrixErrors, match=words):
        matrix_of(f"{AXES}measure: {measure}")
