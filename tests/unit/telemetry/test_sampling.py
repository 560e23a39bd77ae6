"""A sampler that a driver holds."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from agents.telemetry import sampling
from agents.telemetry.sampling import SamplerProcess
from tests.waiting import ended, until

HANGS = (sys.executable, "-S", "-c", "import threading; threading.Event().wait()")


def test_a_sampler_that_no_signal_ends_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CLOSE_S", 0.02)
    kills: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "kill", lambda child: kills.append(child.pid))
        sampler = SamplerProcess(HANGS)
        pid = sampler.pid
        assert pid is not None
        process = psutil.Process(pid)
        sampler.close()
    assert kills == [pid]
    assert sampler.pid is None
    process.kill()
    until(lambda: ended(process), "the end of the process")


def test_a_sampler_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CLOSE_S", 0.02)
    sampler = SamplerProcess(HANGS)
    assert sampler.pid is not None
    process = psutil.Process(sampler.pid)
    sampler.close()
    until(lambda: ended(process), "the end of the process")
