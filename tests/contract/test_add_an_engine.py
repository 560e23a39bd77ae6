"""An engine is a folder, a line in ENGINES and an entry in the suite of adapters: nothing else holds a list of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from agents.contract.engines import ENGINES
from agents.device_file import DeviceFile
from agents.engines import engines_of
from tests.contract.test_engine_adapters import ADAPTERS

SUITES_OF_THEIR_OWN = {"embedded", "comfyui"}  # no server that can be recorded; no stream of tokens


def test_a_made_up_engine_is_added_by_one_line_and_runs_a_cell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.contract.added_engine", str(tmp_path)]
    added = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert added.returncode == 0, added.stderr


def test_each_line_names_its_adapter() -> None:
    assert [engine.name for engine in engines_of(DeviceFile())] == [facts.name for facts in ENGINES]


def test_each_engine_is_in_the_suite() -> None:
    assert {facts.name for facts in ENGINES} <= {each.settings.engine for each in ADAPTERS} | SUITES_OF_THEIR_OWN
