from __future__ import annotations

import os
import shlex
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cluster import node, supervisor
from orchestrator.cluster.processes import end_all, processes_of
from orchestrator.cluster.ray_command import NODE_VARIABLE
from tests.fakes import ray_program


@dataclass(frozen=True)
class FakeRay:
    """``environment`` is what a node is started with; ``plan`` says what the program does at each of its starts."""

    folder: Path
    environment: dict[str, str]

    def plan(self, *starts: str) -> None:
        for number, text in enumerate(starts, 1):
            (self.folder / str(number)).write_text(text, encoding="utf-8")

    def started(self) -> list[str]:
        path = self.folder / "started"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def left(self) -> list[int]:
        return [process.pid for process in processes_of(self.environment[NODE_VARIABLE])]


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    folder = tmp_path / "ray"
    folder.mkdir()
    script = folder / "ray"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(ray_program.__file__)} "$@"\n')
    script.chmod(0o755)
    program: Callable[[], str] = lambda: str(script)  # noqa: E731
    for module in (node, supervisor):
        monkeypatch.setattr(module, "ray_program", program)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    mark = uuid.uuid4().hex
    yield FakeRay(folder, os.environ | {ray_program.FOLDER_VARIABLE: str(folder), NODE_VARIABLE: mark})
    end_all(mark, within_s=0)
