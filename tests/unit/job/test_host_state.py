"""The state that a job asks for: entered, or refused in words; and what its row says of the machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agents.clock import SystemClock
from agents.contract.device import Device, EngineFound, MemoryKind, StateSource
from agents.contract.job import Job, LoadSettings, MachineState
from agents.contract.model_peers import Peers
from agents.contract.report import Cause, Failed, MachineSeen, Measured, Outcome, Refused, Report
from agents.engines.base import ABILITIES, AXES_OF_LOADS, LoadPlace, Support
from agents.errors import LoadFailed, Unsupported
from agents.job.host import Host
from agents.power.methods.base import LimitNotHeld
from agents.power.state import PowerControls, PowerState
from tests.fakes.power_method import FakePower, found_of, kind_of
from tests.unit.contract.test_contract import a_device
from tests.unit.job.test_measure import WORK, Scripted, stream_of

GIB = 2**30
LEFT = json.dumps({"method": "fake", "levels": {"sustained": 80.0, "burst": 95.0}})
SEEN, STATED, HELD = StateSource.SEEN, StateSource.STATED, StateSource.HELD


class ScriptedEngine:
    """Loads nothing, and plays one good stream a job."""

    name = "embedded"

    def __init__(self) -> None:
        self.places: list[LoadPlace] = []
        self.limits_w: list[float] = []  # the machine's limit at each load
        self.power: FakePower | None = None
        self.fails = False

    def find(self) -> EngineFound:
        raise Unsupported("it is made up")

    def capabilities(self) -> Mapping[str, Support]:
        return dict.fromkeys((*AXES_OF_LOADS, *ABILITIES), Support.SETS)

    def load(self, settings: LoadSettings, place: LoadPlace) -> Scripted:
        self.places.append(place)
        if self.power is not None:
            self.limits_w.append(self.power.now_w)
        if self.fails:
            raise LoadFailed(Cause.RAM, "no memory")
        return Scripted([stream_of() for _ in range(9)])


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def power(engine: ScriptedEngine) -> FakePower:
    engine.power = FakePower()
    return engine.power


def a_host(
    folder: Path,
    device: Device,
    engine: ScriptedEngine,
    power: FakePower | None = None,
    found: PowerControls | None = None,
) -> Host:
    found = found or found_of(*([power] if power else []))
    return Host(device, folder, (engine,), power=PowerState(found, folder))


def run(
    host: Host,
    split_gib: float | None = None,
    limit_w: float | None = None,
    context: int = 1,
    profile: str | None = None,
) -> Report:
    state = MachineState(None if split_gib is None else int(split_gib * GIB), limit_w, profile)
    load = LoadSettings("embedded", "m", context_tokens=context)
    job = Job("j", 1, "c", "cell", "id", 0, load, WORK, state=state, warmups=0)
    return host.run(job, threading.Event(), lambda phase, live: None)


def refused(outcome: Outcome) -> str:
    assert isinstance(outcome, Refused), outcome
    assert outcome.cause is Cause.WRONG_STATE
    return outcome.detail


APU = a_device(MemoryKind.CARVE_OUT, 31.5)
STATES_POWER = replace(APU, power_limit_w=80.0, power_source=STATED)


@pytest.mark.parametrize(
    ("device", "seen"),
    [
        (a_device(MemoryKind.NONE), MachineSeen()),
        (APU, MachineSeen(int(31.5 * GIB), SEEN)),
        (replace(APU, split_source=STATED), MachineSeen(int(31.5 * GIB), STATED)),
        (STATES_POWER, MachineSeen(int(31.5 * GIB), SEEN, 80.0, STATED)),
    ],
)
def test_a_report_tells_the_state_and_who_says_so(
    tmp_path: Path, engine: ScriptedEngine, device: Device, seen: MachineSeen
) -> None:
    report = run(a_host(tmp_path, device, engine))
    assert isinstance(report.outcome, Measured)
    assert report.machine == seen


@pytest.mark.parametrize("split_gib", [31.5, 32.0])
@pytest.mark.parametrize("source", [SEEN, STATED])
def test_the_split_that_is_there_seen_or_stated(
    tmp_path: Path, engine: ScriptedEngine, split_gib: float, source: StateSource
) -> None:
    report = run(a_host(tmp_path, replace(APU, split_source=source), engine), split_gib)
    assert isinstance(report.outcome, Measured)
    assert report.machine.dedicated_vram_source is source


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (APU, "of bosgame is 31.5 GiB now; the cell asks for 64 GiB: set it in the firmware and reboot"),
        (a_device(MemoryKind.CARVE_OUT), "of bosgame cannot be seen here; the cell asks for 64 GiB"),
        (
            a_device(MemoryKind.CARVE_OUT, 31.5, (0.5, 32)),
            "firmware of bosgame offers dedicated VRAM of 512 MiB, 32 GiB",
        ),
        (a_device(MemoryKind.UNIFIED), "one pool of memory"),
        (a_device(MemoryKind.DISCRETE, 24), "a card with memory of its own"),
        (a_device(MemoryKind.NONE), "no GPU that shares its memory"),
    ],
)
def test_another_split_is_refused_before_anything_is_loaded(
    tmp_path: Path, engine: ScriptedEngine, device: Device, words: str
) -> None:
    report = run(a_host(tmp_path, device, engine), 64)
    detail = refused(report.outcome)
    assert words in detail
    assert engine.places == []
    assert report.machine.dedicated_vram_seen_bytes == device.dedicated_vram_bytes


@pytest.mark.parametrize("limit_w", [80.0, 80.4])
def test_a_limit_that_the_operator_stated_matches(tmp_path: Path, engine: ScriptedEngine, limit_w: float) -> None:
    report = run(a_host(tmp_path, STATES_POWER, engine), limit_w=limit_w)
    assert isinstance(report.outcome, Measured)
    assert (report.machine.power_limit_seen_w, report.machine.power_limit_source) == (80.0, STATED)


@pytest.mark.parametrize(("device", "now"), [(STATES_POWER, "80 W is stated"), (APU, "none is stated")])
def test_a_limit_that_nobody_holds_or_stated_is_refused_with_what_to_do(
    tmp_path: Path, engine: ScriptedEngine, device: Device, now: str
) -> None:
    detail = refused(run(a_host(tmp_path, device, engine), limit_w=45).outcome)
    assert detail == (
        f"no method is allowed to hold bosgame at 45 W, and {now}:"
        " set it and say so with: orchestrate state bosgame --power-limit 45W"
    )
    assert engine.places == []


def test_a_limit_is_held_while_the_model_loads_and_the_row_says_so(
    tmp_path: Path, engine: ScriptedEngine, power: FakePower
) -> None:
    host = a_host(tmp_path, STATES_POWER, engine, power)
    report = run(host, limit_w=45)
    assert isinstance(report.outcome, Measured)
    assert (report.machine.power_limit_seen_w, report.machine.power_limit_source) == (45.0, HELD)
    assert engine.limits_w == [45.0]
    again = run(host, limit_w=45)
    assert isinstance(again.outcome, Measured) and again.outcome.loaded.reused
    assert power.sets == [45.0]  # held from job to job
    free = run(host)  # a cell that asks for no limit is measured without one
    assert power.now_w == 80.0
    assert (free.machine.power_limit_seen_w, free.machine.power_limit_source) == (80.0, STATED)


def test_a_limit_out_of_bounds_or_without_effect_is_refused_and_the_old_one_holds(
    tmp_path: Path, engine: ScriptedEngine, power: FakePower
) -> None:
    host = a_host(tmp_path, APU, engine, power)
    assert "fake takes 15 to 120 W" in refused(run(host, limit_w=200).outcome)
    power.deaf = True
    report = run(host, limit_w=45)
    assert "fake takes it without effect: sustained should be 45 W and is 80 W" in refused(report.outcome)
    assert (report.machine.power_limit_seen_w, report.machine.power_limit_source) == (None, None)
    assert (engine.places, power.now_w) == ([], 80.0)


def test_a_job_that_fails_leaves_the_limit_to_the_next_one(
    tmp_path: Path, engine: ScriptedEngine, power: FakePower
) -> None:
    host = a_host(tmp_path, APU, engine, power)
    engine.fails = True
    report = run(host, limit_w=45)
    assert isinstance(report.outcome, Failed)
    assert report.machine.power_limit_source is HELD
    engine.fails = False
    assert isinstance(run(host, context=2).outcome, Measured)
    assert engine.limits_w == [45.0, 80.0]


def test_the_peers_of_a_job_reach_the_load(tmp_path: Path, engine: ScriptedEngine) -> None:
    host = a_host(tmp_path, APU, engine)
    host.peers = Peers("token", "id")
    run(host)
    assert [place.peers for place in engine.places] == [Peers("token", "id")]


@pytest.fixture
def this_machine(power: FakePower, monkeypatch: pytest.MonkeyPatch) -> FakePower:
    """A version of Orchestrate that has a method to hold power limits, no engine, and no telemetry."""
    monkeypatch.setenv("ORCHESTRATE_TELEMETRY", "off")
    monkeypatch.setattr("agents.job.host.engines_of", lambda _: ())
    monkeypatch.setattr("agents.power.state.METHODS", (kind_of(power),))
    monkeypatch.setattr("agents.power.state.PROFILES", ())
    return power


def test_what_an_earlier_process_set_is_taken_back_at_the_start(tmp_path: Path, this_machine: FakePower) -> None:
    (tmp_path / "device.yaml").write_text("allow: {power: [fake]}\n")
    this_machine.now_w = 40.0
    (tmp_path / "power-journal.json").write_text(LEFT)
    host = Host.of_this_machine(tmp_path)
    assert (this_machine.now_w, host.power.limit.methods, host.device.power_methods) == (80.0, ("fake",), ("fake",))
    assert not (tmp_path / "power-journal.json").exists()


def test_a_method_that_the_owner_does_not_name_is_never_used(tmp_path: Path, this_machine: FakePower) -> None:
    host = Host.of_this_machine(tmp_path)
    assert host.power.limit.methods == ()
    assert "no method is allowed to hold" in refused(run(host, limit_w=40).outcome)
    assert this_machine.sets == []


def test_what_cannot_be_taken_back_keeps_the_device_from_starting(tmp_path: Path, this_machine: FakePower) -> None:
    (tmp_path / "power-journal.json").write_text(LEFT)
    with pytest.raises(LimitNotHeld, match="allows fake no more"):
        Host.of_this_machine(tmp_path)


class SetClock(SystemClock):
    """A wall clock that is set back by two hours each time that it is read."""

    def __init__(self) -> None:
        self.wall_s = 1_700_000_000.0

    def unix_s(self) -> float:
        self.wall_s -= 7200.0
        return self.wall_s


def test_a_wall_clock_that_is_set_while_a_job_runs_changes_no_duration(tmp_path: Path, engine: ScriptedEngine) -> None:
    host = a_host(tmp_path, APU, engine)
    host.clock = SetClock()
    report = run(host)
    assert report.ended_unix_s < report.started_unix_s, "the labels are the clock's, as it was"
    assert report.duration_s is not None and 0.0 < report.elapsed_s < 60.0
