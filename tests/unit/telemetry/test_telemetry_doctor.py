"""What telemetry a machine shows, for `orchestrate doctor`; and `orchestrate top` with sources that play a script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.device.doctor import SensorSeen, sensors_of
from agents.telemetry.sources.base import Missing, Quantity, Source
from orchestrator.cli.top import in_units, show_top
from tests.fakes.telemetry import BrokenSource, FakeSource


class Made:
    name = "made"

    def find(self, root: Path) -> tuple[list[Source], list[Missing]]:
        good = FakeSource("cpu", Quantity.CPU_BUSY, [None, 57.0])
        return [good], [Missing("rapl", "no right to read", "add a udev rule"), Missing("nvml", "no NVIDIA GPU")]


class Bad:
    name = "bad"

    def find(self, root: Path) -> tuple[list[Source], list[Missing]]:
        return [BrokenSource("bad", Quantity.CPU_BUSY, [1.0])], []


def test_found_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.device.doctor.SOURCES", (Made(), Bad()))
    found, missing = sensors_of()
    assert found == (SensorSeen("cpu", ("cpu_busy",)),)
    assert [each.source for each in missing] == ["rapl", "nvml", "bad"]


def test_every_source_of_this_machine_can_be_read() -> None:
    found, missing = sensors_of()
    assert {quantity for each in found for quantity in each.quantities} >= {"cpu_busy", "ram_used", "engine_ram"}
    assert all(each.why for each in missing)
    assert not [each for each in missing if each.todo == "please report it"]


def test_top_shows_the_second_reading_and_what_can_be_helped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agents.telemetry.sources.SOURCES", (Made(),))
    waited: list[float] = []
    show_top(once=True, as_json=False, wait=waited.append)
    out = capsys.readouterr().out
    assert "cpu busy" in out and "57 %" in out
    assert "rapl: no right to read; add a udev rule" in out and "nvml" not in out
    show_top(once=True, as_json=True, wait=waited.append)
    told = json.loads(capsys.readouterr().out)
    assert told["readings"] == [{"source": "cpu", "quantity": "cpu_busy", "value": 57.0, "unit": "%"}]
    assert len(waited) == 2


@pytest.mark.parametrize(
    ("quantity", "value", "text"),
    [
        (Quantity.CPU_BUSY, None, "-"),
        (Quantity.CPU_BUSY, 57.4, "57 %"),
        (Quantity.RAM_USED, 1.5 * 2**30, "1.5 GiB"),
        (Quantity.SWAP_IN, 2.0**20, "1 MiB/s"),
        (Quantity.GPU_CLOCK, 2.9e9, "2.90 GHz"),
        (Quantity.ON_MAINS, 1.0, "on"),
        (Quantity.THROTTLED_HEAT, 0.0, "off"),
        (Quantity.GPU_POWER, 54.25, "54.2 W"),
        (Quantity.GPU_TEMPERATURE, 71.0, "71 °C"),
    ],
)
def test_in_units(quantity: Quantity, value: float | None, text: str) -> None:
    assert in_units(quantity, value) == text
