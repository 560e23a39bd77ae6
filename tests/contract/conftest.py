"""Tiny models made once for all tests here, and a look for processes that a test did not end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agents.agent.agent import Agent
from tests.waiting import until


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny models are kept; made on first use."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def folder(tmp_path: Path, models: Path) -> Path:
    """A device's folder that shares the models."""
    device = tmp_path / "device"
    device.mkdir()
    (device / "models").symlink_to(models)
    return device


@pytest.fixture
def agent(folder: Path) -> Iterator[Agent]:
    one = Agent(folder)
    yield one
    one.close()


@pytest.fixture(autouse=True)
def nothing_remains_running() -> Iterator[None]:
    """Every process that a test starts has ended, and been reaped, when the test has."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield

    def remaining() -> list[psutil.Process]:
        return [child for child in psutil.Process().children(recursive=True) if child.pid not in before]

    until(lambda: not remaining(), f"the end of {remaining()}")
