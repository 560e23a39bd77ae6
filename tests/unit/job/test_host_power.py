"""Power in a whole job: what is held is looked at after each trial, profiles and limits together, what a row says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.contract.device import StateSource
from agents.contract.job import LoadSettings
from agents.contract.report import Cause, Failed, Measured
from agents.engines.base import LoadPlace
from agents.power.methods.base import Levels
from tests.fakes.power_method import FakePower, FakeProfiles, found_of, kind_of
from tests.unit.job.test_host_state import APU, ScriptedEngine, a_host, refused, run
from tests.unit.job.test_measure import Scripted

SEEN, HELD = StateSource.SEEN, StateSource.HELD


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def power() -> FakePower:
    return FakePower()


class Shown(ScriptedEngine):
    """Something happens on the machine while its session streams."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self.happens = happens

    def load(self, settings: LoadSettings, place: LoadPlace) -> Scripted:
        session = super().load(settings, place)
        stream = session.stream

        def streamed(*arguments: Any, **named: Any) -> Any:
            self.happens()
            return stream(*arguments, **named)

        session.stream = streamed  # type: ignore[method-assign]
        return session


def test_a_limit_that_the_firmware_takes_back_is_told_and_the_job_fails(tmp_path: Path, power: FakePower) -> None:
    def firmware() -> None:
        power.burst_w = 71.0

    host = a_host(tmp_path, APU, Shown(firmware), power)
    report = run(host, limit_w=45)
    assert isinstance(report.outcome, Failed) and report.outcome.cause is Cause.WRONG_STATE
    assert report.outcome.detail == ("the power state was not held to the end: fake: burst should be 45 W and is 71 W")
    assert len(report.outcome.trials) == 1
    assert report.machine.power_limit_source is None  # it is said of no figure that it was held
    assert power.stands_w == (45.0, 71.0) and (tmp_path / "power-journal.json").exists()
    host.power.release()
    assert power.stands_w == (80.0, 95.0)


def test_a_limit_that_is_seen_is_read_again_for_each_row(
    tmp_path: Path, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = [60.0]
    kind = replace(kind_of(FakePower()), look=lambda root: shown[0])
    monkeypatch.setattr("agents.power.state.METHODS", (kind,))
    host = a_host(tmp_path, replace(APU, power_limit_w=60.0, power_source=SEEN), engine)
    assert isinstance(run(host, limit_w=60).outcome, Measured)
    shown[0] = 45.0
    report = run(host)
    assert (report.machine.power_limit_seen_w, report.machine.power_limit_source) == (45.0, SEEN)
    assert "and 45 W is seen: set it" in refused(run(host, limit_w=60).outcome)


def test_a_profile_is_held_and_comes_back(tmp_path: Path, engine: ScriptedEngine) -> None:
    profiles = FakeProfiles()
    host = a_host(tmp_path, APU, engine, found=found_of(profiles=profiles, may_set_profile=True))
    report = run(host, profile="performance")
    assert isinstance(report.outcome, Measured)
    assert (report.machine.power_profile_seen, report.machine.power_profile_source) == ("performance", HELD)
    free = run(host)
    assert (free.machine.power_profile_seen, free.machine.power_profile_source) == ("balanced", SEEN)
    assert profiles.sets == ["performance", "balanced"]
    assert "fake-profile has low-power, balanced, performance" in refused(run(host, profile="turbo").outcome)
    assert list(tmp_path.glob("*-journal.json")) == []


def test_a_profile_that_nobody_may_set_is_the_one_that_stands_or_refused(
    tmp_path: Path, engine: ScriptedEngine
) -> None:
    profiles = FakeProfiles()
    host = a_host(tmp_path, APU, engine, found=found_of(profiles=profiles))
    assert isinstance(run(host, profile="balanced").outcome, Measured)
    assert "the power profile of bosgame is balanced; the cell asks for performance: choose it there" in refused(
        run(host, profile="performance").outcome
    )
    assert "of bosgame cannot be seen" in refused(run(a_host(tmp_path, APU, engine), profile="quiet").outcome)
    assert profiles.sets == []


def test_a_profile_that_could_not_be_put_back_is_not_left(tmp_path: Path, engine: ScriptedEngine) -> None:
    profiles = FakeProfiles(now="custom")
    host = a_host(tmp_path, APU, engine, found=found_of(profiles=profiles, may_set_profile=True))
    assert "custom stands now, and could not be put back" in refused(run(host, profile="performance").outcome)
    assert profiles.sets == []


def test_a_limit_is_set_after_a_profile_and_taken_back_before_it(
    tmp_path: Path, engine: ScriptedEngine, power: FakePower
) -> None:
    """Firmware sets limits of its own with each profile."""
    own = {"low-power": 30.0, "balanced": 80.0, "performance": 110.0}

    class Firmware(FakeProfiles):
        def write(self, levels: Levels) -> None:
            super().write(levels)
            power.now_w = power.burst_w = own[self.now]

    profiles = Firmware()
    power.burst_w = 80.0
    host = a_host(tmp_path, APU, engine, found=found_of(power, profiles=profiles, may_set_profile=True))
    for profile in ("performance", "low-power"):
        report = run(host, limit_w=45, profile=profile)
        assert isinstance(report.outcome, Measured)
        assert power.stands_w == (45.0, 45.0) and profiles.now == profile
    host.power.release()
    assert power.sets == [45.0, 110.0, 45.0, 30.0]
    assert (power.stands_w, profiles.now) == ((80.0, 80.0), "balanced")


def test_a_profile_that_only_stands_takes_no_limit_back_between_jobs(
    tmp_path: Path, engine: ScriptedEngine, power: FakePower
) -> None:
    host = a_host(tmp_path, APU, engine, found=found_of(power, profiles=FakeProfiles()))
    for _ in range(2):
        assert isinstance(run(host, limit_w=45, profile="balanced").outcome, Measured)
    assert power.sets == [45.0]
