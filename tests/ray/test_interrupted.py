"""What is interrupted in the middle goes on where it stopped: no job is lost, none that is complete runs again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.matrices import FOUR_CELLS, LONG, LONG_JOBS, LONGER, LONGER_JOBS, SLOW, SLOW_JOBS
from tests.ray.sandbox import Command, Sandbox
from tests.waiting import until


def submitted(sandbox: Sandbox, matrix: str = LONG) -> Command:
    """A submit in the middle: two jobs are done, one runs."""
    command = sandbox.start("submit", sandbox.write(matrix), "--json")
    command.until(lambda running: len(running.events("job_sent")) >= 3)
    return command


def assert_resume_completes(sandbox: Sandbox, first: Command) -> None:
    before = {event["job_id"] for event in first.events("job_ended")}
    resumed = sandbox.run("resume", first.run_name, "--json")
    assert resumed.code == 0, resumed.errors
    ended = [event["job_id"] for event in resumed.events("job_ended")]
    assert not before & set(ended), "a complete job ran again"
    assert resumed.events("end")[0]["complete"] is True
    rows = sandbox.rows(first.run_name)
    jobs = [row["job_id"] for row in rows]
    assert len(jobs) == len(set(jobs)) == LONG_JOBS, "every job is there, once"
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["attempt"] for row in rows if row["job_id"] in before} == {1}


def test_kill_9(sandbox: Sandbox) -> None:
    first = submitted(sandbox)
    first.signal(signal.SIGKILL)
    assert first.code == -signal.SIGKILL
    sandbox.assert_nothing_runs()
    assert_resume_completes(sandbox, first)
    sandbox.assert_nothing_runs()


def assert_complete(sandbox: Sandbox, run: str, expected: int = LONG_JOBS) -> None:
    rows = sandbox.rows(run)
    jobs = [row["job_id"] for row in rows]
    assert len(jobs) == len(set(jobs)) == expected, "every job is there, once"
    assert {row["status"] for row in rows} == {"ok"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_on_a_cluster_the_run_goes_on_without_whoever_watched_it(cluster: Sandbox, number: signal.Signals) -> None:
    first = submitted(cluster)
    first.signal(number)
    assert first.code == (-signal.SIGKILL if number is signal.SIGKILL else 130)
    assert "Traceback" not in first.errors
    if number is not signal.SIGKILL:
        assert f"the run goes on: orchestrate watch {first.run_name}" in first.events("message")[-1]["text"]
    watched = cluster.run("watch", first.run_name, "--json")
    assert watched.code == 0, watched.errors
    assert watched.events("end")[0]["complete"] is True
    assert_complete(cluster, first.run_name)
    assert {row["attempt"] for row in cluster.rows(first.run_name)} == {1}, "nothing was disturbed"
    cluster.assert_no_engine_runs()


def assert_ended_cleanly(sandbox: Sandbox, stopped: Command) -> None:
    assert stopped.code == 130
    assert stopped.errors == ""
    assert len(stopped.events("stopping")) == 1
    kept = {event["job_id"] for event in stopped.events("job_ended")}
    assert len(kept) >= 2
    assert {row["job_id"] for row in sandbox.rows(stopped.run_name)} == kept
    assert stopped.events("end")[0]["complete"] is False
    assert f"orchestrate resume {stopped.run_name}" in stopped.events("message")[-1]["text"]


def test_one_ctrl_c_ends_cleanly(sandbox: Sandbox) -> None:
    first = submitted(sandbox)
    first.signal(signal.SIGINT, group=True)
    assert_ended_cleanly(sandbox, first)
    sandbox.assert_nothing_runs()
    assert_resume_completes(sandbox, first)
    sandbox.assert_nothing_runs()


def test_a_shutdown_ends_cleanly(sandbox: Sandbox) -> None:
    first = submitted(sandbox)
    first.signal(signal.SIGTERM)
    assert_ended_cleanly(sandbox, first)
    sandbox.assert_nothing_runs()


def test_ctrl_c_twice_ends_at_once(sandbox: Sandbox) -> None:
    first = submitted(sandbox)
    first.signal(signal.SIGINT, group=True)
    first.signal(signal.SIGINT, group=True)
    assert first.code == 130
    assert "Traceback" not in first.errors
    sandbox.assert_nothing_runs()


def test_ctrl_c_while_the_cluster_starts(sandbox: Sandbox) -> None:
    first = sandbox.start("submit", sandbox.write(LONG), "--json")
    first.until(lambda running: bool(running.lines))
    until(lambda: len(sandbox.processes()) > 1, "the start of the cluster")
    first.signal(signal.SIGINT, group=True)
    assert first.code == 130
    assert "Traceback" not in first.errors
    sandbox.assert_nothing_runs()


def test_the_agent_of_the_only_device_dies(cluster: Sandbox) -> None:
    first = submitted(cluster)
    cluster.process("ray::DeviceAgent").kill()
    assert first.code == 0, first.errors
    assert len(first.events("device_lost")) == 1
    assert [event["detail"] for event in first.events("device_there")] == ["back"]
    assert first.events("end")[0]["complete"] is True
    assert "Traceback" not in first.errors
    assert_complete(cluster, first.run_name)
    cluster.assert_no_engine_runs()


def test_the_coordinator_dies_and_goes_on(cluster: Sandbox) -> None:
    first = submitted(cluster)
    cluster.process("ray::CoordinatorActor").kill()
    assert first.code == 0, first.errors
    assert first.events("end")[0]["complete"] is True
    assert_complete(cluster, first.run_name)
    assert {row["attempt"] for row in cluster.rows(first.run_name)} == {1}, "the job that ran then went on"
    cluster.assert_no_engine_runs()


def test_pause_cancel_and_resume(cluster: Sandbox) -> None:
    first = submitted(cluster, LONGER)
    assert cluster.run("pause", first.run_name).code == 0
    assert first.code == 1, "the run is over for now"
    assert first.events("end")[0]["complete"] is False
    done = {row["job_id"] for row in cluster.rows(first.run_name)}
    assert 2 <= len(done) < LONGER_JOBS
    cluster.assert_no_engine_runs()
    resumed = cluster.start("resume", first.run_name, "--json")
    resumed.until(lambda running: bool(running.events("job_sent")))
    assert cluster.run("cancel", first.run_name).code == 0
    assert resumed.code == 1
    cluster.assert_no_engine_runs()
    again = cluster.run("resume", first.run_name, "--json")
    assert again.code == 0, again.errors
    assert_complete(cluster, first.run_name, LONGER_JOBS)


def test_the_job_process_dies_and_its_job_is_tried_again(cluster: Sandbox) -> None:
    first = cluster.start("submit", cluster.write(SLOW), "--json")
    first.until(lambda running: any(event["phase"] == "measuring" for event in running.events("progress")))
    cluster.process("agents.job.runner").kill()
    assert first.code == 0, first.errors
    assert first.events("end")[0]["complete"] is True
    again = [event for event in first.events("job_ended") if not event["final"]]
    assert [event["cause"] for event in again] == ["engine_lost"]
    assert_complete(cluster, first.run_name, SLOW_JOBS)
    attempts = {row["job_id"]: row["attempt"] for row in cluster.rows(first.run_name)}
    assert attempts.pop(again[0]["job_id"]) == 2
    assert set(attempts.values()) == {1}
    cluster.assert_no_engine_runs()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 MiB. Needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False) if _is_linux() else None
    if mounted is None or mounted.returncode != 0:
        pytest.skip(f"no right to mount a small file system: {mounted.stderr.strip() if mounted else os.name}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _is_linux() -> bool:
    return Path("/proc/mounts").exists()


def test_the_coordinators_disk_is_full_in_the_middle(small_disk: Path, sandbox: Sandbox) -> None:
    sandbox.variables["ORCHESTRATE_HOME"] = str(small_disk)
    first = submitted(sandbox)
    filler = small_disk / "filler"
    fill(filler)
    assert first.code == 1, first.text
    assert "Traceback" not in first.errors
    assert first.errors.startswith("error: ")
    assert "no space left" in first.errors or "full" in first.errors
    sandbox.assert_nothing_runs()
    refused = sandbox.run("submit", sandbox.write(FOUR_CELLS))
    assert refused.code == 1
    assert "Traceback" not in refused.errors
    assert "a fault of orchestrate itself" not in refused.errors
    filler.unlink()
    assert_resume_completes(sandbox, first)
    sandbox.assert_nothing_runs()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
