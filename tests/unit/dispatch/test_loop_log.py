"""coordinator.log of a real loop in simulated time: the story of its jobs, and no word that is not meant for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from agents.contract.job import MachineState
from agents.contract.report import Cause, Failed, Loaded, Outcome
from agents.log import start_log_file, stop_log
from orchestrator.dispatch.messages import AskOperator
from orchestrator.dispatch.notify import Notifier, NotifyFile
from orchestrator.plan.changes import Change
from orchestrator.results.durable import StoreFull
from tests.unit.dispatch.submitted_run import RUN, A, SubmittedRun
from tests.unit.results.made_attempts import MEASURED

CHAT = """
axes: {model: "tiny:llama", workload: diary}
workloads: {diary: {prompt: my secret diary, max_tokens: 8}}
measure: {repeats: 1}
"""


@pytest.fixture(autouse=True)
def coordinator_log(tmp_path: Path) -> Iterator[None]:
    start_log_file("coordinator", tmp_path)
    yield
    stop_log()


def log_of(folder: Path) -> str:
    return (folder / "coordinator.log").read_text("utf-8")


def test_the_log_has_each_event_and_command_of_a_job_that_is_sent_again(tmp_path: Path) -> None:
    outcomes: Iterator[Outcome] = iter([Failed(Cause.ENGINE_LOST, "gone"), MEASURED])
    run = SubmittedRun(tmp_path)
    first = run.ids[0]
    run.outcome = lambda job: next(outcomes) if job.job_id == first else MEASURED
    run.complete(run.coordinator(run.fleet()))
    ids = f"run={RUN} job={first}"
    story = [line.partition("Z ")[2] for line in log_of(tmp_path).splitlines() if f" {ids} " in line]
    assert story == [
        f"INFO {ids} attempt=1 device=id-a Send",
        f"INFO {ids} attempt=1 device=id-a AttemptEnded kind=failed cause=engine_lost detail=gone",
        f"WARNING {ids} attempt=1 device=id-a Retry cause=engine_lost failures=1 detail=gone kind=failed",
        f"INFO {ids} attempt=2 device=id-a Send",
        f"INFO {ids} attempt=2 device=id-a AttemptEnded kind=measured",
        f"INFO {ids} attempt=2 device=id-a Keep kind=measured",
    ]
    text = log_of(tmp_path)
    assert f" run={RUN} RunAdded jobs=3 reports=0 " in text
    assert f" run={RUN} CompleteRun\n" in text
    assert " device=id-a DeviceJoined " in text
    assert " TermBegan\n" in text


def test_a_disk_that_takes_no_more_is_logged_once_and_its_end_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SubmittedRun(tmp_path)
    full, write = [True] * 3, run.store.append_many

    def append_many(kept: object) -> None:
        if kept and full:
            full.pop()
            raise StoreFull("no space left")
        write(kept)  # type: ignore[arg-type]

    monkeypatch.setattr(run.store, "append_many", append_many)
    run.complete(run.coordinator(run.fleet(), long_lived=True))
    lines = [line for line in log_of(tmp_path).splitlines() if "Trouble" in line]
    assert ["TroubleReported" in line for line in lines] == [True, False]
    assert " ERROR TroubleReported detail=" in lines[0]
    assert lines[1].endswith("TroubleOver")


def test_no_prompt_is_written_where_an_engine_quotes_it(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path, text=CHAT)
    words = "HTTP 500: cannot answer 'my secret diary'"
    run.outcome = lambda job: Failed(Cause.STREAM_BROKEN, words, Loaded(1.0, False, "b1"))
    run.complete(run.coordinator(run.fleet()))
    text = log_of(tmp_path)
    assert text.count(" Retry cause=stream_broken") == 2
    assert "diary" not in text


def test_a_notification_that_fails_is_logged_without_its_address(tmp_path: Path) -> None:
    address = "http://127.0.0.1:1/hook/s3cr3t"
    notifier = Notifier(NotifyFile(webhook=SecretStr(address)))
    ask = AskOperator("id-a", RUN, MachineState(2**35), Change.OPERATOR_REBOOT)
    notifier.notify(ask, A, "set it").join()
    (line,) = log_of(tmp_path).splitlines()
    assert f" WARNING run={RUN} device=id-a NotificationFailed detail=" in line
    assert "s3cr3t" not in line
