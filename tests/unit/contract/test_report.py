"""A report's times: what is measured on the device, and what only labels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.report import Report
from agents.contract.wire_json import from_json, to_json
from tests.unit.results.made_attempts import job, report

HOURS_S = 2 * 3600.0


@pytest.mark.parametrize("jump_s", [-HOURS_S, 0.0, HOURS_S])
def test_how_long_an_attempt_took_is_not_read_from_the_wall_clock(jump_s: float) -> None:
    made = report(job(), duration_s=9.5)
    assert replace(made, ended_unix_s=made.started_unix_s + jump_s).elapsed_s == 9.5


def test_a_report_of_an_older_version_has_the_wall_clock_alone_and_never_less_than_nothing() -> None:
    made = report(job(), duration_s=None)
    assert made.elapsed_s == made.ended_unix_s - made.started_unix_s
    assert replace(made, ended_unix_s=made.started_unix_s - 7198.0).elapsed_s == 0.0
    assert from_json(Report, to_json(made).replace(b',"duration_s":null', b"")) == made
