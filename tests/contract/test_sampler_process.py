"""The real sampler: its stamps, what it says and when, how it ends; and a job whose report has its readings."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from agents.agent.agent import Agent
from agents.contract.report import Measured
from agents.telemetry.sampling import SamplerProcess
from tests.contract.agent_jobs import a_job, long_job, run, runner, until_streaming
from tests.waiting import until


def test_readings_are_stamped_on_the_clock_of_the_stream_and_come_when_asked() -> None:
    sampler = SamplerProcess()
    try:
        before_ns = time.perf_counter_ns()
        sampler.take()
        sampler.follow([psutil.Process().pid])
        batches = []

        def enough() -> bool:
            batches.append(sampler.take())
            return sum(len(batch.rows) for batch in batches) > 20

        until(enough, "readings")
        after_ns = time.perf_counter_ns()
        rows = [row for batch in batches for row in batch.rows]
        assert all(before_ns <= at_ns <= after_ns for at_ns, *_ in rows)
        assert {"cpu_busy", "ram_used"} <= {quantity for _, _, quantity, _ in rows}
        stamps = [at_ns for at_ns, source, *_ in rows if source == rows[0][1]]
        assert stamps == sorted(stamps)
    finally:
        sampler.close()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("/nowhere/python",), "the sampler cannot be started"),
        ((sys.executable, "-c", "pass"), "the sampler ended"),
        ((sys.executable, "-c", "print('{}', flush=True); input(); input()"), "the sampler said"),
    ],
)
def test_a_sampler_that_fails_says_so_once_and_is_no_failure(command: tuple[str, ...], words: str) -> None:
    sampler = SamplerProcess(command)
    first, second = sampler.take(), sampler.take()
    assert words in first.missing[0].why
    assert (first.rows, second.rows, second.missing) == ((), (), ())
    sampler.follow([1])
    sampler.close()


def test_it_ends_with_its_parent() -> None:
    program = (
        "from agents.telemetry.sampling import SamplerProcess; import sys;"
        "s = SamplerProcess(); s.take(); print(s.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stdin is not None
    sampler = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    sampler.wait(timeout=20)


def test_a_jobs_report_has_readings_usage_and_times_on_one_clock(agent: Agent) -> None:
    report = run(agent, a_job(warmups=1))
    assert isinstance(report.outcome, Measured)
    warmup, trial = report.outcome.trials
    assert warmup.sent_s is not None and trial.sent_s is not None
    assert 0 < warmup.sent_s < trial.sent_s < report.ended_unix_s - report.started_unix_s
    assert {each.quantity for each in report.readings} >= {"cpu_busy", "ram_used"}
    assert all(0 <= each.at_s <= report.ended_unix_s - report.started_unix_s + 0.1 for each in report.readings)
    usage = report.usage
    assert usage.ram_baseline_bytes and usage.ram_peak_bytes and usage.ram_used_by_model_bytes is not None
    assert usage.engine_ram_peak_bytes


def test_the_sampler_follows_the_engine_and_ends_with_the_job_process(agent: Agent) -> None:
    agent.start(long_job())
    until_streaming(agent)
    (sampler,) = (each for each in runner().children() if "agents.telemetry.sampler" in each.cmdline())
    runner().kill()
    sampler.wait(timeout=20)
    agent.close()
