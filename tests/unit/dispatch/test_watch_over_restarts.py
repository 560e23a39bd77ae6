"""Whoever watches a run while its coordinator is restarted sees the run's end, wherever it fell."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.dispatch.coordinator import Coordinator
from tests.fakes.simulated_fleet import SimulatedFleet
from tests.unit.dispatch.submitted_run import RUN, SubmittedRun


@pytest.fixture
def run(tmp_path: Path) -> SubmittedRun:
    return SubmittedRun(tmp_path)


def assert_over(coordinator: Coordinator, after: int) -> None:
    """Within two calls, as a watcher makes them."""
    for _ in range(2):
        answer = coordinator.watch(RUN, after, 0.1)
        after = answer.batch.next
        if answer.is_over:
            return
    raise AssertionError("the watcher waits for ever")


def test_the_run_ended_and_its_coordinator_was_killed_before_the_watcher_got_that(run: SubmittedRun) -> None:
    fleet: SimulatedFleet = run.fleet()
    loop = run.coordinator(fleet)
    run.complete(loop)
    fleet.close()
    with closing(Coordinator(run.folder, run.fleet)) as coordinator:
        assert_over(coordinator, after=0)
