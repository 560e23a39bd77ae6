"""Jobs for an Agent with its real job process, and a look at what that starts."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from agents.agent.agent import Agent
from agents.agent.calls import AgentStatus
from agents.contract.job import Job, LoadSettings, ModelSource, Synthetic, Timeouts, Workload
from agents.contract.report import Attempt, Report
from tests.waiting import until

SHORT = Synthetic("pp16+tg8", prompt_tokens=16, generate_tokens=8)
LONG = Synthetic("tg60000", generate_tokens=60_000)  # 20 s and more


def a_job(workload: Workload = SHORT, context: int = 1024, **changes: Any) -> Job:
    load = LoadSettings(
        "embedded",
        "tiny:llama",
        quantisation="Q8_0",
        context_tokens=context,
        threads=1,
        source=ModelSource(tiny="llama"),
    )
    job = Job("j", 1, "c", "cell", "d", 0, load, workload, warmups=0, timeouts=Timeouts(60.0, 60.0, 60.0))
    return replace(job, **changes)


def long_job(**changes: Any) -> Job:
    return a_job(LONG, context=65_536, **changes)


class Clock:
    """Monotonic time that a test sets; the lease's watchdog looks at it from a thread of its own."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.seen: set[tuple[str, float]] = set()  # by which thread, and what it saw

    def __call__(self) -> float:
        self.seen.add((threading.current_thread().name, self.now_s))
        return self.now_s

    def seen_by_others(self) -> bool:
        """Another thread than the test's has seen what time it is now."""
        main = threading.main_thread().name
        return any(name != main and at_s == self.now_s for name, at_s in self.seen.copy())


def runners() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "agents.job.runner" in child.cmdline()]


def runner() -> psutil.Process:
    (process,) = runners()
    return process


def engine_of(process: psutil.Process) -> psutil.Process:
    (engine,) = (child for child in process.children() if "agents.engines.llama.embedded_child" in child.cmdline())
    return engine


def report_of(agent: Agent) -> Report:
    """The report of the job that runs, when it has come."""
    until(lambda: bool(agent.poll(1.0).reports), "a report")
    (report,) = agent.poll().reports
    return report


def key_of(report: Report) -> Attempt:
    return (report.job_id, report.attempt)


def run(agent: Agent, job: Job) -> Report:
    """A whole job, from start to collected."""
    agent.start(job)
    report = report_of(agent)
    agent.acknowledge(key_of(report))
    return report


def until_streaming(agent: Agent) -> AgentStatus:
    until(lambda: (agent.poll(0.05).reads_per_s or 0) > 0, "tokens")
    return agent.poll()


def shadow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, text: str) -> None:
    """Has every Python that is started from here import ``text`` as ``module``."""
    place = tmp_path / "shadow"
    place.mkdir()
    (place / f"{module}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(place), os.environ.get("PYTHONPATH")))))
