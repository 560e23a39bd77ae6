"""agent.log of an Agent with its real job process and the real engine: the story of a job, no prompt, no secret."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.agent.agent import Agent
from agents.agent.calls import Grant
from agents.contract.job import Chat, ModelSource
from agents.log import start_log_file, stop_log
from tests.contract.agent_jobs import a_job, long_job, report_of, until_streaming


@pytest.fixture(autouse=True)
def debug_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ORCHESTRATE_LOG", "debug")
    start_log_file("agent", folder)
    yield
    stop_log()


def log_of(folder: Path) -> str:
    return (folder / "agent.log").read_text("utf-8")


def names_of(text: str, job: str) -> list[str]:
    """What the lines of a job say happened."""
    lines = [line.split() for line in text.splitlines() if f" job={job} " in line]
    return [next(word for word in words[2:] if "=" not in word) for words in lines]


def test_the_log_holds_the_story_of_a_job_from_both_processes(agent: Agent, folder: Path) -> None:
    agent.start(a_job(), Grant(term=7, lease_s=60.0))
    report_of(agent)
    names = [name for name in names_of(log_of(folder), "j") if name not in ("PhaseChanged", "LeaseRenewed")]
    assert names == ["JobStarted", "LoadStarted", "Loaded", "AttemptEnded"]
    text = log_of(folder)
    assert " run=c job=j attempt=1 device=d Loaded engine=embedded model=tiny:llama seconds=" in text
    assert " term=7 TermAccepted before=0" in text
    assert "AttemptEnded kind=measured" in text


def test_nothing_is_written_while_tokens_arrive_even_at_debug(agent: Agent, folder: Path) -> None:
    agent.start(long_job(), Grant(term=7, lease_s=60.0))
    until_streaming(agent)
    before = log_of(folder)
    for _ in range(5):
        assert agent.poll(0.05, 7).stage == "measuring"
    assert log_of(folder) == before
    agent.cancel()
    report_of(agent)
    names = [name for name in names_of(log_of(folder), "j") if name != "PhaseChanged"]
    assert names[-2:] == ["CancelRequested", "AttemptEnded"]


def test_no_prompt_and_no_login_of_a_model_is_written(agent: Agent, folder: Path) -> None:
    chat = Chat("chat", "my secret diary", max_tokens=8)
    job = a_job(chat, keep_output=True)
    agent.start(job)
    report_of(agent)
    source = ModelSource(url="http://user:pa55word@127.0.0.1:9/a.gguf?sig=s1gnature")
    load = replace(job.load, model="http://user:pa55word@127.0.0.1:9/a.gguf?sig=s1gnature", source=source)
    agent.acknowledge(("j", 1))
    agent.start(replace(job, job_id="k", load=load))
    report_of(agent)
    text = log_of(folder)
    assert names_of(text, "j")[-1] == names_of(text, "k")[-1] == "AttemptEnded"
    assert "127.0.0.1:9" in text
    for secret in ("diary", "pa55word", "s1gnature"):
        assert secret not in text
