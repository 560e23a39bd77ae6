"""Model files beside the jobs: what a run lacks, files served to other devices, and those that a job may fetch from."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.agent.agent import Agent
from agents.agent.calls import Grant
from agents.contract.job import LoadSettings, ModelSource
from agents.contract.model_peers import Peer, Peers
from agents.contract.report import Failed
from agents.models.tiny.make import make_tiny
from agents.places import MODELS_PORT_VARIABLE
from tests.contract.agent_jobs import a_job, key_of, long_job, report_of, runners
from tests.waiting import until

TOKEN = "s3cret-of-the-cluster"


def test_what_a_run_needs_is_told_without_a_job_process(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "device")
    loads = [
        LoadSettings("embedded", "tiny:llama", "Q8_0", context_tokens=context, source=ModelSource(tiny="llama"))
        for context in (512, 1024)
    ]
    free, (need,) = agent.needs(loads)
    assert free > 0
    assert (need.model, need.quantisation, need.here, need.files) == ("tiny:llama", "Q8_0", False, 1)
    made = make_tiny("llama", "Q8_0", tmp_path / "device/models/tiny")
    assert need.missing_bytes == made.path.stat().st_size
    _, (need,) = agent.needs(loads)
    assert (need.here, need.missing_bytes, need.files) == (True, 0, 0)
    assert runners() == []


def asked(port: int, path: str, token: str | None = TOKEN) -> tuple[int, str]:
    """Status and state that the model server of this port answers."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        line.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = line.getresponse()
        answer.read()
        return answer.status, answer.headers.get("X-Orchestrate-State", "")
    finally:
        line.close()


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Agent]:
    """An agent that nobody asks for a job."""
    one = Agent(tmp_path / "idle")
    yield one
    one.close()


def a_free_port() -> tuple[socket.socket, int]:
    """Outside of the range that the system gives out by itself, so that nothing takes it between two uses."""
    for port in range(21_000, 22_000):
        held = socket.socket()
        try:
            held.bind(("0.0.0.0", port))
        except OSError:
            held.close()
            continue
        return held, port
    raise AssertionError("no free port")


def test_models_are_served_to_those_who_know_the_token_until_close(idle: Agent) -> None:
    port = idle.serve_models(TOKEN)
    assert idle.serve_models(TOKEN) == port  # once
    assert asked(port, f"/sha256/{'0' * 64}") == (404, "lacks")
    assert asked(port, f"/sha256/{'0' * 64}", token="another") == (401, "")
    assert runners() == []
    idle.close()
    with pytest.raises(OSError):
        asked(port, "/")


def test_the_port_for_models_is_the_one_that_is_asked_for(idle: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    held, port = a_free_port()
    held.close()
    monkeypatch.setenv(MODELS_PORT_VARIABLE, str(port))
    assert idle.serve_models(TOKEN) == port
    assert asked(port, f"/sha256/{'0' * 64}") == (404, "lacks")


def test_another_port_where_that_one_is_taken(idle: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    held, port = a_free_port()
    with held:
        held.listen()
        monkeypatch.setenv(MODELS_PORT_VARIABLE, str(port))
        other = idle.serve_models(TOKEN)
        assert other not in (0, port)
        assert asked(other, f"/sha256/{'0' * 64}") == (404, "lacks")


@pytest.mark.parametrize("phase", ["warm-up", "measuring"])
def test_nothing_is_served_while_a_benchmark_is_timed(agent: Agent, models: Path, phase: str) -> None:
    path = make_tiny("llama", "Q8_0", models / "tiny").path
    port = agent.serve_models(TOKEN)
    where = f"/find?path={path.resolve()}"
    until(lambda: asked(port, where) == (200, "has"), "the hash of the file")
    agent.start(long_job(warmups=1 if phase == "warm-up" else 0))
    until(lambda: agent.poll(0.05).stage.startswith(phase), phase)
    assert asked(port, where) == (503, "measures")
    agent.cancel()
    assert key_of(report_of(agent)) == ("j", 1)
    assert asked(port, where) == (200, "has")


def test_peers_reach_the_job_process_and_their_token_no_report_and_no_file(
    agent: Agent, idle: Agent, folder: Path, tmp_path: Path
) -> None:
    port = idle.serve_models(TOKEN)
    grant = Grant(1, 90.0, Peers(TOKEN, "own", (Peer("other", f"http://127.0.0.1:{port}", "a laptop"),)))
    assert TOKEN not in repr(grant)
    path = tmp_path / "nowhere.gguf"
    load = replace(a_job().load, source=ModelSource(path=str(path)))
    agent.start(a_job(load=load), grant)
    report = report_of(agent)
    assert isinstance(report.outcome, Failed)
    assert report.outcome.detail == f"no such model file: {path}, nor at any of 1 other devices"
    assert TOKEN not in repr(report)
    load = replace(load, source=ModelSource(path=str(path.with_name("nor.gguf"))))
    agent.acknowledge(key_of(report))
    agent.start(a_job(load=load, job_id="j2"))  # without peers
    outcome = report_of(agent).outcome
    assert isinstance(outcome, Failed) and "other devices" not in outcome.detail
    for file in folder.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file
