from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.contract.device import EngineFound
from agents.device.doctor import EngineSeen, SensorSeen, controls_of
from agents.device_file import Allow, DeviceFile
from agents.engines import engines_of
from agents.power.methods import METHODS, PROFILES
from agents.telemetry.sources.base import Missing
from orchestrator.cli.app import app
from orchestrator.cli.doctor import controls_table, engines_table, sensors_table, show_doctor
from orchestrator.errors import UsageError

ENGINES = [engine.name for engine in engines_of(DeviceFile())]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCHESTRATE_HOME", str(tmp_path))
    (tmp_path / "device").mkdir()
    return tmp_path


def test_each_engine_is_there_or_says_why_not() -> None:
    found = EngineFound("ollama", "0.21", ("vulkan", "cpu"), "http://127.0.0.1:11434")
    untold = EngineFound("openai", "", (), "http://10.0.0.1:8000")
    seen = [EngineSeen("ollama", found), EngineSeen("openai", untold), EngineSeen("lmstudio", None, "start it")]
    rows = [tuple(cell.text for cell in row) for row in engines_table(seen).rows]
    assert rows == [
        ("ollama", "0.21", "vulkan, cpu", "http://127.0.0.1:11434"),
        ("openai", "not told", "not told", "http://10.0.0.1:8000"),
        ("lmstudio", "-", "-", "start it"),
    ]
    assert [row[0].failed for row in engines_table(seen).rows] == [False, False, True]


def test_this_machine(home: Path) -> None:
    done = CliRunner().invoke(app, ["doctor"], catch_exceptions=False)
    assert done.exit_code == 0
    for name in ENGINES:
        assert f"\n{name} " in done.output
    assert "does not answer" in done.output or "http" in done.output


def test_as_json_for_programs(home: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    said = json.loads(done.output)
    assert [each["name"] for each in said["engines"]] == ENGINES
    embedded = said["engines"][ENGINES.index("embedded")]
    assert "cpu" in embedded["found"]["runtimes"]
    assert said["device"]["name"]
    assert (said["device_file"], said["has_device_file"]) == (str(home / "device" / "device.yaml"), False)


def test_a_device_file_that_is_not_right_is_named(home: Path) -> None:
    (home / "device" / "device.yaml").write_text("engines: {olama: {url: 'http://127.0.0.1:1'}}\n")
    with pytest.raises(UsageError, match=r"device\.yaml: engines: .*'olama' is no engine; allowed: embedded, llama"):
        show_doctor(as_json=False)


def test_an_engine_at_another_place_is_looked_for_there(home: Path) -> None:
    (home / "device" / "device.yaml").write_text("engines: {ollama: {url: 'http://127.0.0.1:9'}}\n")
    done = CliRunner().invoke(app, ["doctor"], catch_exceptions=False)
    assert "http://127.0.0.1:9 does not answer: Connection refused" in done.output


def test_sensors_that_are_there_and_what_to_do_about_the_others() -> None:
    table = sensors_table([SensorSeen("cpu", ("cpu_busy",))], [Missing("rapl", "permission denied", "add a udev rule")])
    assert [tuple(cell.text for cell in row) for row in table.rows] == [
        ("cpu", "cpu_busy", ""),
        ("rapl", "not there: permission denied", "add a udev rule"),
    ]
    assert [row[0].failed for row in table.rows] == [False, True]


def test_a_control_is_allowed_or_not_and_there_or_not(home: Path) -> None:
    (home / "device" / "device.yaml").write_text("allow: {power: [rapl]}\n")
    seen = {each.name: each for each in controls_of(Allow(power=["rapl"]), home)}  # an empty tree: nothing is there
    assert set(seen) == {each.name for each in METHODS} | {each.name for each in PROFILES}
    assert [each.name for each in seen.values() if each.allowed] == ["rapl"]
    assert seen["rapl"].why
    rows = {row[0].text: (row[1].text, row[2].text) for row in controls_table(tuple(seen.values())).rows}
    assert rows["rapl"] == ("yes", seen["rapl"].why)
    done = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    assert {each["name"] for each in json.loads(done.output)["controls"] if each["allowed"]} == {"rapl"}
