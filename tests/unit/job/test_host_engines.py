"""A load that does not come about: refused, failed, tried again or not."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agents.contract.device import EngineFound, MemoryKind
from agents.contract.job import Chat, Job, LoadSettings, Stop, Timeouts, Workflow
from agents.contract.report import Cause, Failed, Measured, Outcome, Refused
from agents.engines.base import LoadPlace, Support
from agents.errors import AgentError, EngineAway, LoadFailed, NotReady, Unsupported
from agents.job.host import Host
from tests.fakes.telemetry import ScriptedClock
from tests.unit.contract.test_contract import a_device
from tests.unit.job.test_host_state import ScriptedEngine
from tests.unit.job.test_measure import WORK, Scripted

JOB = Job("j", 1, "c", "cell", "id", 0, LoadSettings("embedded", "m"), WORK, warmups=0)
FOUND = EngineFound("embedded", "1", (), "here")


class Failing(ScriptedEngine):
    """Raises what ``errors`` holds, one a load; then it loads."""

    def __init__(self, *errors: AgentError) -> None:
        super().__init__()
        self.errors = list(errors)

    def load(self, settings: LoadSettings, place: LoadPlace) -> Scripted:
        if self.errors:
            raise self.errors.pop(0)
        return super().load(settings, place)


LATER = NotReady("HTTP 503: Loading model")


def test_a_server_that_is_not_ready_is_asked_again(tmp_path: Path) -> None:
    clock = ScriptedClock()
    host = replace(a_host(tmp_path, Failing(LATER, LATER), FOUND), clock=clock)
    assert isinstance(run(host), Measured)
    assert clock.now_ns > ScriptedClock().now_ns


def test_a_server_that_never_is_ready_is_given_up_after_the_time_of_a_load(tmp_path: Path) -> None:
    host = replace(a_host(tmp_path, Failing(*[LATER] * 1000), FOUND), clock=ScriptedClock())
    patient = replace(JOB, timeouts=Timeouts(30.0, 1.0, 1.0))
    failed = host.run(patient, threading.Event(), lambda phase, live: None).outcome
    assert isinstance(failed, Failed) and failed.cause is Cause.LOAD_TIMEOUT
    assert failed.detail == "not ready within 30 s: HTTP 503: Loading model"


class StopsAtTheEnd(Failing):
    def capabilities(self) -> Mapping[str, Support]:
        return {**super().capabilities(), "exact_stop": Support.CANNOT}


def run(host: Host) -> Outcome:
    return host.run(JOB, threading.Event(), lambda phase, live: None).outcome


def a_host(folder: Path, engine: Failing, *found: EngineFound) -> Host:
    return Host(replace(a_device(MemoryKind.NONE), engines=found), folder, (engine,))


def test_a_server_that_was_here_and_is_away_is_lost_and_one_that_never_was_is_refused(tmp_path: Path) -> None:
    away = EngineAway("http://127.0.0.1:1234 does not answer")
    lost = run(a_host(tmp_path, Failing(away), FOUND))
    assert isinstance(lost, Failed) and (lost.cause, lost.detail) == (Cause.ENGINE_LOST, away.detail)
    refused = run(a_host(tmp_path, Failing(away)))
    assert isinstance(refused, Refused) and refused.cause is Cause.UNSUPPORTED
    assert isinstance(run(a_host(tmp_path, Failing(Unsupported("no")), FOUND)), Refused)


@pytest.mark.parametrize(("cause", "again"), [(Cause.ENGINE_LOST, True), (Cause.RAM, False)])
def test_what_the_coordinator_sends_again_is_tried_again(cause: Cause, again: bool, tmp_path: Path) -> None:
    host = a_host(tmp_path, Failing(LoadFailed(cause, "it went away")), FOUND)
    assert isinstance(run(host), Failed)
    second = run(host)
    assert isinstance(second, Measured) is again
    if isinstance(second, Failed):
        assert second.detail.endswith("(not tried again: it failed so just before)")


def test_a_loaded_engine_refuses_what_it_cannot_run_and_stays_loaded(tmp_path: Path) -> None:
    host = a_host(tmp_path, StopsAtTheEnd(), FOUND)
    assert isinstance(run(host), Measured)
    exact = replace(JOB, job_id="j2", workload=Chat("story", "Tell one.", 64, stop=Stop.EXACT))
    refused = host.run(exact, threading.Event(), lambda phase, live: None).outcome
    assert isinstance(refused, Refused) and "cannot be told to go on past the end of text" in refused.detail
    again = run(host)
    assert isinstance(again, Measured) and again.loaded.reused


@pytest.mark.parametrize(("workload", "warm"), [(WORK, True), (Workflow("flow", "{}"), False)])
def test_images_are_warmed_up_for_each_cell(workload: object, warm: bool, tmp_path: Path) -> None:
    """Else the same graph, twice in a row, comes out of the engine's cache."""
    host = a_host(tmp_path, Failing(), FOUND)
    host._warmed.add(workload)  # type: ignore[arg-type]
    assert host._is_warm(replace(JOB, workload=workload)) is warm  # type: ignore[arg-type]
