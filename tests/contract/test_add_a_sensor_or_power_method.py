"""A sensor is a file and an entry in SOURCES; a power method a file and an entry in METHODS: nothing else lists them.

Each is made up here and added by its one entry to every Python that starts; then a job runs in the whole agent.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.agent.agent import Agent
from agents.contract.job import Job, MachineState, Synthetic
from agents.contract.report import Measured
from orchestrator.results.rows import rows_of
from tests.contract.agent_jobs import a_job, run, shadow_module

SENSOR = """
import agents.telemetry.sources
from agents.telemetry.sources.base import Quantity

class MadeUp:
    name = "made-up:0"
    averages_power = True

    def read(self):
        return [(Quantity.SYSTEM_POWER, 30.0), (Quantity.MEMORY_TEMPERATURE, 61.0)]

    def close(self):
        pass

class MadeUpFinder:
    name = "made-up"

    def find(self, root):
        return (MadeUp(),), ()

agents.telemetry.sources.SOURCES = (MadeUpFinder(), *agents.telemetry.sources.SOURCES)
"""

METHOD = """
from pathlib import Path
import agents.power.methods
from agents.power.methods.base import MethodKind

class MadeUp:
    name = "made-up"

    def read(self):
        return {{"limit": float(Path({path!r}).read_text())}}

    def write(self, levels):
        Path({path!r}).write_text(str(levels["limit"]))

    def bounds(self):
        return 15.0, 120.0

    def levels_for(self, limit_w):
        return {{"limit": limit_w}}

MADE_UP = MethodKind("made-up", lambda root, most_w: MadeUp(), of="package")
agents.power.methods.METHODS = (*agents.power.methods.METHODS, MADE_UP)
"""


def cli(folder: Path, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a command prints as JSON, on the machine whose device's folder this is."""
    monkeypatch.setenv("ORCHESTRATE_HOME", str(folder.parent))
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments, "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    return found


def trial_row(job: Job, agent: Agent) -> tuple[dict[str, Any], str]:
    report = run(agent, job)
    assert isinstance(report.outcome, Measured), report.outcome
    (row,) = rows_of(job, report, agent.device()).to_pylist()
    return row, report.energy.energy_source or ""


def test_a_made_up_sensor_is_read_by_jobs_and_shown_by_doctor_and_top(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow_module(tmp_path, monkeypatch, "sitecustomize", SENSOR)
    agent = Agent(folder)
    try:
        job = a_job(Synthetic("tg8000", generate_tokens=8_000), context=9_000)  # a second and more
        row, energy_source = trial_row(job, agent)
    finally:
        agent.close()
    readings = {(each["source"], each["quantity"], each["unit"], each["value"]) for each in row["readings"]}
    assert {("made-up:0", "system_power", "W", 30.0), ("made-up:0", "memory_temperature", "°C", 61.0)} <= readings
    assert row["system_power_mean_w"] == pytest.approx(30.0)
    if row["energy_scope"] == "system":  # else this machine has a sensor that comes before it
        assert energy_source == "made-up"
        assert row["decode_power_w"] == pytest.approx(30.0)
    sensors = cli(folder, "doctor", monkeypatch=monkeypatch)["sensors"]
    assert {"source": "made-up:0", "quantities": ["system_power", "memory_temperature"]} in sensors
    shown = cli(folder, "top", "--once", monkeypatch=monkeypatch)["readings"]
    assert {"source": "made-up:0", "quantity": "system_power", "value": 30.0, "unit": "W"} in shown


def test_a_made_up_power_method_is_held_read_back_journalled_restored_and_in_the_row(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, journal = tmp_path / "limit", folder / "power-journal.json"
    limit.write_text("80.0")
    shadow_module(tmp_path, monkeypatch, "sitecustomize", METHOD.format(path=str(limit)))
    (folder / "device.yaml").write_text("allow: {power: [made-up]}\n")
    agent = Agent(folder)
    try:
        assert agent.device().power_methods == ("made-up",)
        row, _ = trial_row(a_job(state=MachineState(power_limit_w=45.0)), agent)
        assert (row["power_limit_seen_w"], row["power_limit_source"]) == (45.0, "held")
        assert limit.read_text() == "45.0"
        assert json.loads(journal.read_text()) == {"method": "made-up", "levels": {"limit": 80.0}}
        run(agent, a_job(job_id="j2"))  # asks for no limit
        assert limit.read_text() == "80.0" and not journal.exists()
    finally:
        agent.close()
    controls = cli(folder, "doctor", monkeypatch=monkeypatch)["controls"]
    assert {"name": "made-up", "allowed": True, "why": ""} in controls
