"""An Agent with its real job process and the real engine: what it reports, and what is left after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agents.agent.agent import Agent, JobProcessFailed
from agents.agent.hang_detector import HangLimits
from agents.contract.job import Chat
from agents.contract.report import Cause, Failed, Measured, Refused, Report
from agents.contract.wire_json import from_json, to_json
from tests.contract.agent_jobs import a_job, engine_of, long_job, report_of, runner, shadow_module, until_streaming
from tests.waiting import ended, until


def test_a_job_from_start_to_collected(agent: Agent, folder: Path) -> None:
    assert agent.device().engines[0].name == "embedded"
    status = agent.start(a_job())
    assert (status.job, status.reports) == (("j", 1), ())
    with pytest.raises(JobProcessFailed, match="busy with j"):
        agent.start(a_job(job_id="other"))
    report = report_of(agent)
    assert isinstance(report.outcome, Measured)
    assert (report.job_id, report.device_id) == ("j", agent.device().device_id)
    assert report.fingerprint == agent.device().fingerprint
    kept = folder / "spool" / "j-1.json"
    assert from_json(Report, kept.read_bytes()) == report  # on the disk before it is told
    assert agent.poll().job is None
    agent.acknowledge(("j", 1))
    assert not kept.exists()
    assert agent.poll().reports == ()


def test_the_live_view_of_a_stream_and_cancel(agent: Agent) -> None:
    agent.start(long_job())
    status = until_streaming(agent)
    assert status.stage == "measuring" and status.reads > 1
    agent.cancel()
    outcome = report_of(agent).outcome
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.CANCELLED
    agent.acknowledge(("j", 1))
    agent.cancel()  # too late for that job, and not meant for the next
    agent.start(a_job(job_id="j2"))
    assert isinstance(report_of(agent).outcome, Measured)


def test_close_in_mid_stream_leaves_nothing(folder: Path) -> None:
    agent = Agent(folder)
    agent.start(long_job())
    until_streaming(agent)
    process = runner()
    engine = engine_of(process)
    agent.close()
    agent.close()
    until(lambda: ended(process) and ended(engine), "their end")
    until(lambda: agent.poll().job is None, "the agent to notice")
    assert agent.poll().reports == ()
    with pytest.raises(JobProcessFailed, match="closed"):
        agent.start(a_job(job_id="j2"))


def test_close_of_an_agent_that_did_nothing(folder: Path) -> None:
    Agent(folder).close()


def test_a_job_process_that_is_killed_is_reported_and_the_next_job_works(agent: Agent) -> None:
    agent.start(long_job())
    until_streaming(agent)
    process = runner()
    engine = engine_of(process)
    process.kill()
    report = report_of(agent)
    assert isinstance(report.outcome, Failed)
    assert report.outcome.cause is Cause.ENGINE_LOST
    assert "exit code -9" in report.outcome.detail
    assert report.fingerprint
    until(lambda: ended(engine), "the engine's end")
    agent.acknowledge(("j", 1))
    agent.start(a_job(attempt=2))
    assert isinstance(report_of(agent).outcome, Measured)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no signal stops a process here")
def test_a_job_process_that_hangs_is_ended_with_its_engine_and_the_next_job_works(folder: Path) -> None:
    agent = Agent(folder, hang_limits=HangLimits(cancel_s=0.2))
    try:
        agent.start(long_job())
        until_streaming(agent)
        stopped, engine = runner(), engine_of(runner())
        stopped.suspend()
        agent.cancel()
        report = report_of(agent)
        assert isinstance(report.outcome, Failed)
        assert (report.outcome.cause, report.outcome.hung_stage) == (Cause.ENGINE_LOST, "measuring")
        until(lambda: ended(stopped) and ended(engine), "the end of the job process and of its engine")
        assert agent.poll().blocked is None
        agent.acknowledge(("j", 1))
        agent.start(a_job(attempt=2))
        assert isinstance(report_of(agent).outcome, Measured)
        # one that is stopped while it is idle reads nothing, and a job is larger than what a pipe takes
        agent.acknowledge(("j", 2))
        runner().suspend()
        agent.start(a_job(Chat("long", "word " * 100_000, max_tokens=8), attempt=3))
        assert agent.poll().stage == "starting"
        agent.cancel()
        report = report_of(agent)
        assert isinstance(report.outcome, Failed) and report.outcome.hung_stage == "starting"
    finally:
        agent.close()


def test_an_engine_that_is_killed_is_reported_and_the_next_job_works(agent: Agent) -> None:
    agent.start(long_job())
    until_streaming(agent)
    engine_of(runner()).kill()
    report = report_of(agent)
    assert isinstance(report.outcome, Failed)
    assert report.outcome.cause is Cause.ENGINE_CRASHED
    agent.acknowledge(("j", 1))
    agent.start(a_job(attempt=2))
    assert isinstance(report_of(agent).outcome, Measured)


AGENT = """
import sys
from pathlib import Path
from agents.agent.agent import Agent
from agents.contract.job import Job
from agents.contract.wire_json import from_json
agent = Agent(Path(sys.argv[1]))
agent.start(from_json(Job, sys.stdin.read()))
while not agent.poll(0.05).reads_per_s:
    pass
print("streaming", flush=True)
while True:
    agent.poll(1.0)
"""


def test_an_agent_that_is_killed_takes_everything_with_it(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdin is not None and owner.stdout is not None
        try:
            owner.stdin.write(to_json(long_job()))
            owner.stdin.close()
            assert owner.stdout.readline() == b"streaming\n"
            (process,) = psutil.Process(owner.pid).children()
            engine = engine_of(process)
        finally:
            owner.kill()
    until(lambda: ended(process), "the job process's end")
    until(lambda: ended(engine), "the engine's end")
    agent = Agent(folder)  # and the device is free again
    try:
        agent.start(a_job())
        assert isinstance(report_of(agent).outcome, Measured)
    finally:
        agent.close()


def test_a_second_agent_on_the_same_device_is_refused(agent: Agent, folder: Path) -> None:
    agent.device()
    second = Agent(folder)
    try:
        with pytest.raises(JobProcessFailed, match="this device is busy with another coordinator's benchmark"):
            second.device()
    finally:
        second.close()
    assert agent.start(a_job()).job == ("j", 1)
    assert isinstance(report_of(agent).outcome, Measured)


def test_a_broken_device_file_is_told_and_can_be_mended(agent: Agent, folder: Path) -> None:
    (folder / "device.yaml").write_text("nam: x\n")
    for call in (agent.device, lambda: agent.start(a_job())):
        with pytest.raises(JobProcessFailed, match="Allowed keys: name, labels") as caught:
            call()
        assert str(folder / "device.yaml") in str(caught.value)
    assert agent.poll().job is None
    (folder / "device.yaml").write_text("name: mended\n")
    assert agent.device().name == "mended"


def test_a_job_process_that_cannot_be_imported_is_told_in_its_last_words(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "device/runner.log").write_text("words of an earlier time\n")
    shadow_module(tmp_path, monkeypatch, "filelock", "raise ImportError('no lock here')")
    for call in (agent.device, lambda: agent.start(a_job())):
        with pytest.raises(JobProcessFailed, match=r"exit code 1: ImportError: no lock here; see .*runner\.log"):
            call()


def test_a_job_process_that_hangs_at_its_start_is_given_up(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow_module(tmp_path, monkeypatch, "filelock", "import time\ntime.sleep(600)")
    agent = Agent(folder, start_s=0.2)
    with pytest.raises(JobProcessFailed, match=r"did not start within 0\.2 s"):
        agent.device()
    agent.close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobProcessFailed, match="cannot be started"):
        Agent(tmp_path / "file" / "device").device()


def test_without_libgomp_the_engine_is_not_there_and_a_job_says_what_to_install(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "libgomp.so.1: cannot open shared object file: No such file or directory"
    shadow_module(tmp_path, monkeypatch, "xllamacpp", f"raise ImportError({words!r})")
    assert agent.device().engines == ()
    agent.start(a_job())
    outcome = report_of(agent).outcome
    assert isinstance(outcome, Refused)
    assert outcome.cause is Cause.RUNTIME_MISSING
    assert words in outcome.detail and "apt-get install libgomp1" in outcome.detail


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise ModuleNotFoundError(\"No module named 'xllamacpp'\")", "pip install xllamacpp"),
        ("import os\nos.abort()", "exit code -6"),
        ("def get_device_info():\n    raise OSError('driver')", "OSError: driver"),
        ("def get_device_info():\n    return [{'name': 'CPU'}]", "memory_total"),
        (
            "def get_device_info():\n    return []\nprint = 0\nimport json\njson.dumps = lambda x: 'null'",
            "cannot be read",
        ),
    ],
)
def test_an_engine_that_cannot_be_asked_is_not_there(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    shadow_module(tmp_path, monkeypatch, "xllamacpp", text)
    assert agent.device().engines == ()
    agent.start(a_job())
    outcome = report_of(agent).outcome
    assert isinstance(outcome, Refused)
    assert (outcome.cause, words in outcome.detail) == (Cause.RUNTIME_MISSING, True), outcome.detail


def test_modules_in_the_directory_of_the_user_are_not_taken_for_ours(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("agents", "json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    agent.start(a_job())
    assert isinstance(report_of(agent).outcome, Measured)


def test_what_others_print_between_the_lines_does_not_stop_the_agent(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = "import sys\nif 'agents.job.runner' in sys.orig_argv: print('words\\n7\\n[]\\nnull\\n{}', flush=True)"
    shadow_module(tmp_path, monkeypatch, "sitecustomize", prints)
    assert agent.device().device_id
    agent.start(a_job())
    assert isinstance(report_of(agent).outcome, Measured)


def test_a_line_cut_off_by_a_kill_does_not_stop_the_agent(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = 'import os\nos.write(1, b\'{"report": {"job\')\nos._exit(9)'
    shadow_module(tmp_path, monkeypatch, "filelock", half)
    with pytest.raises(JobProcessFailed, match="exit code 9"):
        Agent(folder).device()


@pytest.fixture
def small_disk(tmp_path: Path, models: Path) -> Iterator[Path]:
    """A device's folder on a disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        folder = place / "device"
        folder.mkdir()
        (folder / "models").symlink_to(models)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(folder: Path) -> Path:
    """Takes all that is free on a disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


def test_a_full_disk_fails_the_job_in_words_and_the_report_arrives(small_disk: Path) -> None:
    agent = Agent(small_disk)
    try:
        agent.device()
        filler = fill(small_disk)
        agent.start(a_job())
        report = report_of(agent)
        assert isinstance(report.outcome, Failed)
        assert report.outcome.cause is Cause.DISK_FULL
        assert "No space left" in report.outcome.detail
        assert "disk_full: this report could not be kept on the device's disk" in report.log
        blocked = agent.recheck().blocked
        assert blocked is not None and blocked.why.startswith("its disk is full: No space left on device")
        filler.unlink()
        assert agent.recheck().blocked is None
        agent.acknowledge(("j", 1))
        agent.start(a_job(attempt=2))
        report = report_of(agent)
        assert isinstance(report.outcome, Measured)
        assert json.loads((small_disk / "spool/j-2.json").read_bytes())["attempt"] == 2
    finally:
        agent.close()


def test_a_disk_that_fills_up_later_costs_no_measurement(small_disk: Path) -> None:
    agent = Agent(small_disk)
    try:
        agent.start(a_job())
        assert isinstance(report_of(agent).outcome, Measured)
        agent.acknowledge(("j", 1))
        fill(small_disk)
        agent.start(a_job(job_id="j2"))
        report = report_of(agent)
        assert isinstance(report.outcome, Measured) and report.outcome.loaded.reused
        assert report.log.startswith("disk_full: this report could not be kept")
        assert agent.poll().blocked is not None, "nothing more is sent until there is room"
    finally:
        agent.close()


def test_a_device_that_starts_on_a_full_disk_says_so_and_keeps_no_half_id(small_disk: Path) -> None:
    filler = fill(small_disk)
    agent = Agent(small_disk)
    try:
        with pytest.raises(JobProcessFailed, match="No space left on device"):
            agent.device()
        filler.unlink()
        assert agent.device().device_id
    finally:
        agent.close()
